"""How Lightning spreads a training over processes."""

from lightning.pytorch.strategies import ModelParallelStrategy


class FSDP2(ModelParallelStrategy):
    """Weights, gradients and states of the optimizer in parts, one for each process.

    All processes shard one model and see different examples. A checkpoint is one file of whole
    tensors, so that any number of devices goes on from it.

    Args:
        process_group_backend: nccl, gloo, ...; None: what the device takes.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
