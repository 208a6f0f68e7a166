"""The training loop: plain functions over a network, pictures and a process group. Imports no Ray."""
