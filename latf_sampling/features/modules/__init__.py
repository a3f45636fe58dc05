"""The torch modules of the kinds of descriptors; specifications are read, and columns named, without torch."""
