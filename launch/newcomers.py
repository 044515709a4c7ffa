"""Keys by their names in other programs, and the names here."""

from recipe.config import Config
from recipe.parity import ParityConfig
from recipe.study import StudyConfig

# By the last part of the key, in any group.
KEYS = {
    "optim.peak_lr": ("lr", "learning_rate", "base_lr", "max_lr", "initial_lr"),
    "train.global_batch_size (examples of a step over all devices)": (
        *("batch", "batch_size", "bs", "train_batch_size", "global_batch_size"),
        *("micro_batch_size", "per_device_batch_size", "per_device_train_batch_size"),
    ),
    "train.epochs": ("epochs", "num_epochs", "n_epochs", "max_epochs"),
    "train.epochs (or train.steps)": ("num_train_epochs",),
    "train.steps": ("steps", "num_steps", "max_steps", "iterations", "max_iters"),
    "train.seed": ("seed", "random_seed", "manual_seed"),
    "train.grad_accum_steps": (
        *("accumulation_steps", "gradient_accumulation_steps", "grad_accum"),
        "accumulate_grad_batches",
    ),
    "train.log_every_steps": (
        *("log_every", "log_every_n_steps", "log_interval", "logging_steps"),
        "print_freq",
    ),
    "name (of the experiment, used by folders and trackers) or run.dir": (
        *("name", "run_name", "exp_name", "experiment_name"),
    ),
    "run.dir": ("output_dir", "out_dir", "log_dir", "save_dir", "logdir"),
    "run.resume": ("resume", "resume_from", "resume_from_checkpoint"),
    "data.root": ("data_dir", "data_path", "data_root"),
    "optim.momentum": ("momentum",),
    "optim.weight_decay": ("weight_decay", "wd"),
    "optim.clip_norm": ("clip", "grad_clip", "gradient_clip_val", "max_grad_norm"),
    "schedule.warmup_steps": ("warmup", "warmup_epochs", "warmup_steps"),
    "optim=sgd or optim=adamw": ("optimizer", "opt"),
    "schedule=cosine or similar": ("scheduler", "lr_scheduler", "lr_schedule"),
    "model=resnet18 or similar": ("arch", "architecture", "model_name"),
    "data=cifar10 or similar": ("dataset", "dataset_name"),
    "precision=bf16 or similar": ("amp", "dtype", "fp16", "bf16", "mixed_precision"),
    "tracking=wandb": ("wandb", "use_wandb", "report_to"),
    "platform=gpu or platform=cpu": ("device", "cuda", "use_cuda", "accelerator"),
}
# Options of a group that are other programs' names, and what to write.
OPTIONS = {
    "data": {
        "npz": "data=custom data.files=FILE.npz",
        "medmnist": "data=custom data.files=FILE.npz",
        **dict.fromkeys(
            ("idx", "emnist", "kmnist", "qmnist"),
            "data=custom data.files=FOLDER, which holds four IDX files",
        ),
        **dict.fromkeys(
            ("csv", "imagefolder", "image_folder", "images", "jpeg", "png"),
            "data=folder data.files=FOLDER",
        ),
    }
}
COUNTS = ("gpus", "num_gpus", "n_gpus", "ngpus", "nproc", "num_devices", "world_size")
MEANT = {name: key for key, names in KEYS.items() for name in names}


def meant(key: str, schema: type[Config]) -> str:
    """The name here of a key from another program; empty if unknown.

    >>> meant("train.lr", Config), meant("optim.gamma", Config)
    ('optim.peak_lr', '')
    """
    name = key.rpartition(".")[2].lower().replace("-", "_")
    if name in COUNTS:
        return devices(schema)
    return MEANT.get(name, "")


def devices(schema: type[Config]) -> str:
    """The key for the number of devices, which depends on the script."""
    if issubclass(schema, StudyConfig):
        return "study.world_size=[...] and cluster.gpus_per_node"
    if issubclass(schema, ParityConfig):
        return "world_sizes=[...]"
    return "devices, or torchrun --nproc-per-node for a process each"
