"""chorus_core: from posed RGB-D frames to a map of 3D Gaussians that answers text queries. No ROS in here."""

import os

# OpenMP threads that wait for work spin by default. Mapping, encoding and DDS share a robot's few cores: spinning
# threads starve the ones with work (measured on 2 cores: frames took five times as long). Must precede torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
