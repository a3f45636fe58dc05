"""From a differentiable variable to an OpenMM force."""
