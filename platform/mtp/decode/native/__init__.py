"""The compiled step: one C++ call a pass on the processor, in place of hundreds of operations from Python."""
