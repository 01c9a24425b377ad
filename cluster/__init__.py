"""Layer 5: where the platform runs. `local` starts and stops a cluster on this machine; `submit` sends it jobs."""
