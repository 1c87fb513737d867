"""What is trained, as the paper writes it: pure torch, which knows no device."""
