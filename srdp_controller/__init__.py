"""Real-time deployment of distilled diffusion policies (SRDP) on ROS 2 robots."""
