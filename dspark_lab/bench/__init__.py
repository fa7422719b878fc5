"""Measuring on this machine: acceptance, speed, and where a round goes. The commands are in `commands.py`."""
