"""Real-time deployment of distilled diffusion policies (SRDP) on ROS 2 robots."""

__version__ = "0.3.0"
