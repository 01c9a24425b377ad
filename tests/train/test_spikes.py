import math

from hypothesis import given
from hypothesis import strategies as st

from mtp.train.spikes import SpikeWatch

LOSSES = st.lists(st.floats(0, 10), min_size=1, max_size=40)


def test_a_loss_six_deviations_above_the_last_ones_is_a_spike_and_one_below_is_none():
    watch = SpikeWatch(sigma=6.0, window=8)
    assert not any(watch.look(loss) for loss in (2.0, 2.1) * 4)
    assert watch.look(1.0) is None
    watch = SpikeWatch(sigma=6.0, window=8, losses=(2.0, 2.1) * 4)
    spike = watch.look(3.0)
    assert math.isclose(spike.mean, 2.05) and spike.loss == 3.0 and spike.sigmas > 6


def test_a_lasting_change_of_level_is_soon_the_level():
    watch = SpikeWatch(sigma=6.0, window=8, losses=(2.0, 2.1) * 4)
    assert [bool(watch.look(loss)) for loss in (9.0, 9.1) * 8].count(True) == 1


def test_equal_losses_have_no_deviation_to_compare_with():
    assert SpikeWatch(sigma=6.0, window=8, losses=[2.0] * 8).look(3.0) is None


@given(LOSSES, LOSSES)
def test_a_watch_that_is_given_the_last_losses_goes_on_as_if_it_had_seen_them(before, after):
    through = SpikeWatch(sigma=2.0, window=16)
    for loss in before:
        through.look(loss)
    resumed = SpikeWatch(sigma=2.0, window=16, losses=through.losses)
    assert [through.look(loss) for loss in after] == [resumed.look(loss) for loss in after]
