"""How the atlas becomes known: jobs, methods, datasets, evaluation, and the embedded model."""

import os

# Before the first import of torch: with OpenMP's default spin-wait, two threads on busy cores are far slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
