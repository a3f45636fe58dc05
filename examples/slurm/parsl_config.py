"""Parsl on Slurm: blocks of nodes with four GPUs, as many as there is work for, and a walker on each GPU.

A walker that has not finished when a block ends goes on in another one from its last finished segment: `latf` submits
it again itself, so that `retries` stays 0. A block that fails, as with its node, is replaced by the strategy "simple";
"none" would replace none, and the default handler of such errors would end everything with the first block.
"""

from parsl import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

HOURS = 4
"""Wall time of a block."""

config = Config(
    executors=[
        HighThroughputExecutor(
            label="gpus",
            available_accelerators=4,  # each worker sees one GPU, by CUDA_VISIBLE_DEVICES
            max_workers_per_node=4,
            cpu_affinity="block",  # and has cores of its own
            # After this time a node begins no further walker, so that few are in the middle when its block ends.
            drain_period=int(0.75 * HOURS * 3600),
            heartbeat_period=15,
            heartbeat_threshold=120,  # s without a word, after which a node counts as lost
            block_error_handler=windowed_error_handler,  # three blocks in a row that fail end the run, not the first
            # A manager that is killed would leave its workers and a helper behind: the shell that began it ends them.
            launch_cmd=DEFAULT_LAUNCH_CMD + " || kill -KILL 0",
            # Parsl's interchange would outlive a driver that is killed, and keep its blocks; setpriv is of util-linux.
            interchange_launch_cmd=["setpriv", "--pdeathsig", "KILL", "interchange.py"],
            provider=SlurmProvider(
                partition="gpu",
                nodes_per_block=1,
                init_blocks=1,
                min_blocks=0,
                max_blocks=4,
                walltime=f"{HOURS:02d}:00:00",
                exclusive=False,
                cores_per_node=16,
                scheduler_options="#SBATCH --gpus-per-node=4",
                worker_init="source .venv/bin/activate; export OPENMM_CPU_THREADS=4",
                launcher=SrunLauncher(),
            ),
        )
    ],
    strategy="simple",
    retries=0,
    run_dir="runinfo",
)
