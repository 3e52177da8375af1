"""What is learnt from trained SAEs. Each analysis is a room of its own."""
