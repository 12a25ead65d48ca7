"""The paper's experiments as runnable checks."""
