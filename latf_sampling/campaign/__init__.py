"""The loop: simulate, learn, export, bias, start anew."""
