"""How a machine trains a stack of trials: epochs, random numbers, measurements, memory, steps."""
