#!/usr/bin/env bash
# The driver of parsl.yaml or executorlib.yaml: one core, which submits jobs for the walkers and trains nothing itself.
# It may as well run on a login node, in tmux. When its time is over it ends its walkers, and goes back to the queue.
#
#   sbatch driver.sh parsl.yaml runs/parsl
#
#SBATCH --job-name=latf-driver
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
protocol=${1:?give a protocol} directory=${2:?give the directory of the campaign}

latf run "$protocol" -o "$directory" --max-time "23.8 h"
status=$?
if [ "$status" -eq 75 ]; then # run the same command again
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
