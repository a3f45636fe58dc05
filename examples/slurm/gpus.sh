#!/usr/bin/env bash
# One allocation with several GPUs: a walker on each, in processes of this machine. Slurm says when the time is nearly
# over, latf ends with exit code 75, and the job goes back to the queue until the campaign is finished.
#
#   sbatch gpus.sh gpus.yaml runs/gpus
#
#SBATCH --job-name=latf
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# B: only this script gets the signal, 300 s before the end; it passes it on.
set -u
protocol=${1:?give a protocol} directory=${2:?give the directory of the campaign}

# With `walkers: 2` or more of each GPU in the protocol, NVIDIA's multi-process service lets them compute side by side:
#   export CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d) CUDA_MPS_LOG_DIRECTORY=$(mktemp -d)
#   nvidia-cuda-mps-control -d

signaled=
trap 'signaled=1; kill -USR1 $(jobs -p)' USR1
trap 'signaled=1; kill -TERM $(jobs -p)' TERM
latf run "$protocol" -o "$directory" &
latf=$!
wait "$latf"
status=$?
if [ -n "$signaled" ]; then # a signal ends the first wait, the second one has the exit code
    wait "$latf"
    status=$?
fi
if [ "$status" -eq 75 ]; then # run the same command again
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
