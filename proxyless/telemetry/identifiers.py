"""Random numbers for ids that must be unique and need not be secret: without a system call for each."""

import os
import random

_random = random.Random(os.urandom(32))  # noqa: S311  nobody is trusted for knowing one
# A forked child would repeat its parent's.
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

bits = _random.getrandbits
