"""Trajectories, the files of a campaign, and the data sets that models are trained on."""
