"""Ray Data without its own progress bars and logs: the platform shows its own."""

import logging

from ray.data import DataContext, Dataset


def quiet_context() -> None:
    """Silence Ray Data in this process, for plans made from now on."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "Progress bars disabled"


def keep_order(dataset: Dataset, object_store_bytes: int | None = None) -> Dataset:
    """Give the blocks of `dataset` in the order of its read tasks, holding at most so many bytes of them."""
    options = dataset.context.execution_options
    options.preserve_order = True
    if object_store_bytes is not None:
        options.resource_limits = options.resource_limits.copy(object_store_memory=object_store_bytes)
    return dataset
