"""How OpenMP's threads wait for each other, in every process of the platform; read when torch is imported.

A thread that waits for its team spins for some tenths of a millisecond, then sleeps. Sleeping at once costs the
training step 40 % of its speed, spinning without end takes the cores from processes beside it (docs/benchmarks.md).
"""

SPIN = {"GOMP_SPINCOUNT": "30000"}
"""Environment variables."""
