from mtp.cli.progress import telling


def test_where_no_spinner_can_turn_each_thing_that_is_done_gets_a_line(capsys):
    with telling("Measuring [the machine]") as tell:
        tell("Round 1 of 2: ours")
    assert capsys.readouterr().err.splitlines() == ["Measuring [the machine]", "Round 1 of 2: ours"]
