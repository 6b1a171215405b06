"""The paper's tables and plots from result files alone."""
