"""Files, processes, installation, platforms and random numbers: nothing here knows of molecules or models."""
