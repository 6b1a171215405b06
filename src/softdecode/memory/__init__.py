"""Running large models in little memory: offloading, 4-bit weights, and what each mode needs."""
