from mtp.progress import StageLines


def test_a_stage_gets_a_line_for_every_tenth_that_it_reaches():
    lines = []
    tell = StageLines(lines.append)
    for done in range(1001):
        tell("tokenize", done, 1000)
    tell("train", 1, 3)
    tell("train", 3, 3)
    tell("nothing to do", 0, 0)
    assert lines == [
        *(f"tokenize: {done:,} of 1,000" for done in range(0, 1001, 100)),
        "train: 1 of 3",
        "train: 3 of 3",
        "nothing to do: 0 of 0",
    ]
