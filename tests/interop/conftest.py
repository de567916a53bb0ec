"""The neighbours whose helpers these tests use."""

import sys
from pathlib import Path

for neighbour in ("control_plane", "envoy", "translate"):
    sys.path.append(str(Path(__file__).parent.parent / neighbour))
