"""Wrong input: one clear line on stderr and an exit code, before anything is trained."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from mupl.cli import main
from mupl.errors import raised_by_user
from mupl.names import flat
from tests.commands import IGNORED, ROOT, train_anew, train_here
from tests.models import broken

pytestmark = IGNORED

SMALL = {"width": "8", "base_width": "8", "max_steps": "2", "trainer": "cpu"}
GPT = "model=gpt data=text data.context=8 model.d_head=4"
HF = "model=hf_gpt2 data=text data.context=8 model.sizes.num_attention_heads=1"
STACKED = "-m lr=0.1,0.2 hydra/launcher=stacked"
RECORDED = "callbacks=coordinates callbacks.coordinates"
TABLE = "data=table data.file=TMP/flats.csv batch_size=3"
FLATS = f"{TABLE} data.target=price data.ignore=[city]"
DEPTH = "base_depth=null: parametrization="

# Arguments, of which SMALL is added where they do not say it -> what the line must contain.
# TMP is a folder with data that are wrong.
WRONG = {
    # keys that there are not, or no longer
    "widht=256": "widht: there is no such key; did you mean width?",
    "optimzer=adam": "optimzer: there is no such key; did you mean optimizer?",
    "+optimzer=adam": "did you mean optimizer?",
    "experimnt=coord_check": "did you mean experiment?",
    "+foo=1": "foo: there is no such key; --help lists them",
    "++foo.bar=1": "foo: there is no such key",
    "+family=adam": "family: there is no such key",
    "+ckpt_path=last.ckpt": "ckpt_path: there is no such key",
    "-m +foo=1,2": "foo: there is no such key",
    "~lr": "lr: is missing",
    "~model": "model: is missing",
    "model.bia=false": "model.bia: there is no such key; did you mean model.bias?",
    "optimizer.beta=[0.9,0.99]": "did you mean optimizer.betas?",
    "hydra.sweep.dr=x": "did you mean hydra.sweep.dir?",
    "+model.foo=2": "model.foo: there is no such key (there are in_features",
    "+data.shuffle=true": "data.shuffle: there is no such key (there are root)",
    "+scheduler.period=2": "scheduler.period: there is no such key",
    "+optimizer.foo=1": "optimizer.foo: there is no such key",
    "+trainer.foo=1": "trainer (lightning.pytorch.trainer.trainer.Trainer): ",
    "+parametrization.foo=1": "unexpected keyword argument 'foo'",
    "+logger.csv.foo=1": "logger.csv (lightning.pytorch.loggers.csv_logs.CSVLogger): ",
    f"{RECORDED}.kinds=[grad] +callbacks.coordinates.foo=1": "callbacks.coordinates.foo: must be",
    # groups
    "optimizer=adamx": "Available options in 'optimizer': adam adam_atan2 adamh adamw blocked",
    "parametrization=muP": "Available options in 'parametrization': cerebras completep",
    "data=minst": "Available options in 'data': cifar10 digits fashion_mnist image_folder mnist",
    "trainer=tpu": "Available options in 'trainer': auto cpu ddp fsdp2 gpu",
    "callbacks=coords": "Available options in 'callbacks': coordinates lr_monitor none",
    "experiment=coord_chek": "Available options in 'experiment': ablation coord_check",
    "-m parametrization=sp,mpu": "Could not find 'parametrization/mpu' Available options in",
    "-m model.foo=1,2": "model.foo: there is no such key (there are ",
    "callbacks=null": "callbacks=null: must be the name of a config; --help lists them",
    "optimizer=3": "optimizer=3: must be the name of a config; --help lists them",
    "checkpoint=last": "checkpoint=last: has keys, as in checkpoint.every_minutes=10",
    "-m hydra/launcher=stackd width=8,16": "Available options in 'hydra/launcher': basic",
    # what cannot be read
    "lr": "lr: must be key=value",
    "lr=1e-3,1e-2": "lr=1e-3,1e-2: several values need -m (a sweep); one list is lr=[1e-3,1e-2]",
    "-m lr=1e-3,": "lr=1e-3,: cannot be read; commas stand between values (lr=1e-3)",
    "-m width=8;16": "width=8;16: cannot be read; commas stand between values (width=8,16)",
    "-m seed=range(0,0)": "seed=range(0,0): has no values",
    "-m seed=interval(0,1)": "seed: an interval needs a sweeper that draws values",
    "lr=${rate}": "lr: Interpolation key 'rate' not found",
    "hydra.mode=MULTI": "expected one of [RUN, MULTIRUN]",
    # sizes
    "width=wide": "width=wide: must be a whole number >= 1",
    "width=0": "width=0: must be a whole number >= 1",
    "width=64.5": "width=64.5: must be a whole number >= 1",
    "width=1e2": "width=100.0: must be a whole number >= 1",
    "width=[]": "width=[]: must be a whole number >= 1",
    "width=null": "width=null: must be a whole number >= 1",
    "width=[8,wide]": "width=[8, 'wide']: must be a whole number >= 1",
    "-m width=": "width=: must be a whole number >= 1",
    "width=[8,16] depth=5": "depth=5: width=[8, 16] is a list of 2 layers; say one of the two",
    "-m width=[8,16],[8] depth=5": "depth=5: width=[8, 16] is a list of 2 layers",
    "depth=0": "depth=0: must be a whole number >= 1",
    "base_width=0": "base_width=0: must be a whole number >= 1",
    "base_depth=0": "base_depth=0: must be a whole number >= 1, or null",
    "base_depth=2 depth=null parametrization=completep": "depth=null: must be a whole number",
    "batch_size=0": "batch_size=0: must be a whole number >= 1",
    "batch_size=100000": "batch_size=100000: must be at most 1438, the size of the train split",
    "max_steps=0": "max_steps=0: must be a whole number >= 1",
    "max_steps=1.5": "max_steps=1.5: must be a whole number >= 1",
    "seed=-1": "seed=-1: must be a whole number >= 0 and below 2^32",
    "seed=4294967296": "seed=4294967296: must be a whole number >= 0 and below 2^32",
    "-m seed=4294967296,4294967297": "seed=4294967296: must be a whole number",
    "seed=${hydra:job.num}": "seed=null: must be a whole number",  # which only a sweep's jobs have
    # numbers and words
    "lr=abc": "lr=abc: must be a finite number > 0",
    "lr=null": "lr=null: must be a finite number > 0",
    "lr=true": "lr=true: must be a finite number > 0",
    "lr=0": "lr=0: must be a finite number > 0",
    "lr=-0.1": "lr=-0.1: must be a finite number > 0",
    "lr=nan": "lr=nan: must be a finite number > 0",
    "-m lr=[1e-3,1e-2]": "lr=[0.001, 0.01]: must be a finite number > 0",
    "-m lr=-1,-2": "lr=-1: must be a finite number > 0",
    "eps=-1": "eps=-1: must be a finite number >= 0",
    "weight_decay=-0.1": "weight_decay=-0.1: must be a finite number >= 0",
    "weight_decay_mode=foo": "must be one of coupled, decoupled, independent, or a",
    "weight_decay_mode=-1": "weight_decay_mode=-1: must be one of coupled, decoupled, independent",
    "batch_scaling=sqrt": "batch_scaling=sqrt: changes nothing without base_batch_size",
    "batch_scaling=linear base_batch_size=32": "must be one of none, sqrt, sde",
    "batch_scaling=sde base_batch_size=32 optimizer=sgd": "the optimizer has no betas",
    "batch_scaling=sde base_batch_size=1": "the batch is too large",
    "base_batch_size=0": "base_batch_size=0: must be a whole number >= 1, or null",
    "threads=few": "threads=few: must be a whole number >= 1, or auto",
    "-m rerun=al width=8,16": "rerun=al: must be one of missing, failed, changed, keep, all",
    "metric=val_accuracy": "metric=val_accuracy: must be one of val_loss, train_loss",
    # losses
    "loss=mse": "loss=mse: must be the dotted name of a function",
    "loss=torch.nn.functional.mse_loss": "loss: does not fit the model's output (64, 10) float32",
    "loss=tests.test_bad_input.no_mean": "loss: must return a scalar, not (64,) float32",
    "-m lr=0.1,0.2 loss=torch.nn.functional.mse_loss": "loss: does not fit the model's output (3, ",
    f"{STACKED} loss=tests.test_bad_input.no_mean": "loss: must return a scalar, not (3,) float32",
    f"{STACKED} loss=torch.nn.functional.mse_loss,torch.nn.functional.l1_loss": "does not fit the",
    f"-m lr=0.1,0.2 {FLATS} loss=mupl.training.setup.cross_entropy": "two or more classes",
    f"{FLATS} model._target_=tests.test_losses.Told": "does not fit the model's output (3,) fl",
    f"{FLATS} loss=mupl.training.setup.cross_entropy": "say loss=torch.nn.functional.mse_loss",
    # parametrizations, roles, initializers
    "parametrization=completep": f"{DEPTH}completep scales with depth; say the depth where lr",
    "parametrization=depth_mup": f"{DEPTH}depth_mup scales with depth",
    "parametrization=umup": f"{DEPTH}umup scales with depth",
    "parametrization=umup base_depth=3 optimizer=sgd": "under SGD it is for unit-scaled operations",
    "parametrization=umup_output_scale base_depth=3 optimizer=sgd": "which this model has not",
    "parametrization=umup_output_scale base_depth=3": "has no rules for the update kind 'adam'",
    f"{GPT} model.unit_scaling=true model.norm_gain=false base_depth=3 optimizer=sgd "
    "parametrization=umup_output_scale": "does not fit the readout of this model",
    "parametrization=umup/gpt": "model.unit_scaling: there is no such key",
    "parametrization=cerebras optimizer=sgd": "cerebras has no rules for the update kind 'sgd'",
    "parametrization.name=mupp": "parametrization=mupp: must be one of sp",
    '+parametrization.overrides={layer.1.*:{lr:"1"}}': "'layer.1.*' matches none of layers.0",
    '+parametrization.overrides={layers.1.*:{lr:"m_im^-1/2"}}': "'m_im^-1/2' is no product",
    "+parametrization.overrides={layers.1.*:{rate:1}}": "layers.1.*.rate: must be one of mult",
    "+parametrization.overrides={layers.1.*:3}": "layers.1.*: must be {cell: value}",
    "+parametrization.lr_adjustment_groups={a:{filter:x}}": "a: takes param_filter and scale",
    "roles=hidden": "roles=hidden: must be by glob, such as '+roles={layers.1.weight: hidden}'",
    "+roles={layers.1.weight:hiden}": "roles=hiden: must be one of input, hidden, output, scalar",
    "+roles={layer.1.weight:hidden}": "roles: 'layer.1.weight' matches none of layers.0.weight",
    "init=normal": "init=normal: must be by glob",
    "+init={layers.1.weight:{name:cauchy}}": "init.name=cauchy: must be one of normal",
    "+init={layers.1.weight:{name:normal,std:-1}}": "init.std=-1.0: must be a number >= 0",
    "keep=readout.*": "keep=readout.*: must be a list of globs, such as 'keep=[layers.0.*]'",
    "keep=[3]": "keep=[3]: must be a list of globs",
    "keep=[nothing.*]": "keep: 'nothing.*' matches none of layers.0.weight",
    "keep=[readout.*] +init={readout.weight:{name:normal,std:1}}": "'readout.weight' is drawn by",
    "+init={nothing.*:{name:normal,std:1}}": "init: 'nothing.*' matches none of layers.0.weight",
    # factors by module
    "tune=3": "tune=3: must be by role or glob, such as tune.hidden.lr=2",
    "tune.hidden=3": "tune.hidden=3: must have factors, such as tune.hidden.lr=2",
    "tune.hidden.rate=2": "tune.hidden.rate: there is no such factor; there are lr, weight_decay",
    "tune.hidden.lr=0": "tune.hidden.lr=0: must be a finite number > 0",
    "-m tune.hidden.lr=-1,-2": "tune.hidden.lr=-1: must be a finite number > 0",
    "tune.hiden.lr=2": "'hiden' matches none of layers.0.weight",
    "tune={layer.*:{lr:2}}": "tune.layer.*: no role (input, hidden, output",
    "tune.attention.mult=2": "tune.attention: the model has nothing of the role attention; it has",
    "tune.hidden.weight_decay=2": "multiplies weight_decay=0; say weight_decay=0.1",
    "tune.mlp.of=3 tune.mlp.lr=2": "tune.mlp.of=3: must be a role or a glob, or a list of them",
    f"{GPT} tune.residual.lr=2": "tune.residual.lr: changes nothing of",
    "model.zero_readout=true tune.output.init=2": "changes nothing of 'readout.weight', which has",
    # halving
    "halving=3": "halving=3: must have rungs, keep and within",
    "halving.rungs=[0.1]": "drops jobs of a sweep in stacks that record nothing; add -m hydra",
    # a ladder
    "-m experiment=tune hydra/launcher=stacked": "target.width=null: must be a whole number >= 1",
    "-m experiment=tune hydra/launcher=stacked target.width=0": "target.width=0: must be a whole",
    "-m experiment=tune hydra/launcher=stacked target.width=64 target.depth=deep": (
        "target.depth=deep: must be a whole number >= 1, or null"
    ),
    "-m experiment=tune hydra/launcher=stacked target.width=64 target.in_proportion=[width]": (
        "target.in_proportion=['width']: must be a list of depth, batch_size, max_steps"
    ),
    "-m experiment=tune hydra/launcher=stacked target.width=64 target.in_proportion=[depth]": (
        "target.depth=null: is to grow in proportion; say the target's"
    ),
    "-m experiment=tune hydra/launcher=stacked target.width=64 target.max_steps=64 "
    "target.in_proportion=[max_steps] max_steps=2 width=8": "max_steps=2: is to grow in proportion",
    "-m experiment=tune hydra/launcher=stacked target.width=64 width=32,128": (
        "target.width=64: must not be below the widths of the ladder, up to 128"
    ),
    f"-m experiment=tune hydra/launcher=stacked target.width=65 width=8 {GPT}": (
        "the target cannot be built: model.d_head=4"
    ),
    "-m experiment=tune hydra/launcher=stacked target.widht=64": "did you mean target.width?",
    "target.width=64": "target: there is no such key",
    "check=true": "check: there is no such key",
    "-m lr=0.1,0.2 halving.rungs=[0.1]": "add hydra/launcher=stacked, or say halving.rungs=[]",
    f"{STACKED} halving.rungs=[0.5,0.1]": "must be increasing fractions of max_steps",
    f"{STACKED} halving.rungs=[10]": "must be increasing fractions of max_steps",
    f"{STACKED} halving.rungs=[0.1] halving.keep=0.9": "halving.keep=0.9: must be above 0 and at",
    f"{STACKED} halving.rungs=[0.1] halving.keep=[0.5,0.5]": "or a list of one for each rung",
    f"{STACKED} halving.rungs=[0.1] halving.within=width": "must be a list of keys, such as [wid",
    f"{STACKED} halving.rungs=[0.1] callbacks=coordinates": "leave out callbacks=['coordinates']",
    # models
    "model.activation=swish": "model.activation=swish: must be one of relu, sigmoid, tanh, gelu",
    "model.bias=maybe": "model.bias=maybe: must be true or false",
    "model.zero_readout=7": "model.zero_readout=7: must be true or false",
    "model.init_std=-1": "model.init_std=-1: must be >= 0",
    "model.init_std=big": "model.init_std=big: must be a number",
    "model._target_=tests.models.Nt": "(tests.models has no Nt)",
    "model._target_=nowhere.Net": "cannot be imported (needs the package nowhere, which is not "
    "installed, nor a module of the working folder)",
    "model._target_=tests.models.Unclassifiable": "'positions' of shape (3, 8)",
    "-m width=8,32 model._target_=tests.models.Ranked": "takes rank, which these data do not have "
    "(they have in_channels, image_size, in_features and num_classes); take other data, or say "
    "+model.rank=...",
    "-m parametrization=completep,depth_mup lr=0.1,0.2": f"{DEPTH}completep scales with depth",
    "-m width=8,32 model._target_=tests.models.Nt": "(tests.models has no Nt)",
    "-m width=8,32 model._target_=tests.models.Unfitting": "error: tests.models:Linear.forward "
    "raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (",
    "model._target_=tests.models.Sizeless ~model.depth ~model.activation ~model.input_mult "
    "~model.output_mult ~model.init_std ~model.zero_readout": "must take width, in_features and "
    "num_classes (got an unexpected keyword argument 'width')",
    "-m width=8,32 model._target_=tests.models.Masked": "tests.models.Masked: forward must take a "
    "batch of inputs and need nothing else (missing a required argument: 'mask')",
    "model._partial_=false": "its config needs _partial_: true",
    "model=gpt": "model=mupl.models.GPT: takes vocabulary and context, which these data do not",
    "data=text": "model=mupl.models.MLP: takes in_features and num_classes",
    f"{GPT} model.experts=width/3": "model.experts=width/3: must be a whole number, and is",
    f"{GPT} model.experts=widht/4": "model.experts=widht/4: 'widht' is no size here",
    "model=gpt data=text width=100": "model.d_head=32: must be a whole number that divides the",
    f"{GPT} model.d_head=null model.heads=3": "model.heads=3: must be a whole number that divides",
    f"{GPT} model.d_head=null": "model.d_head=null, model.heads=null: give one and null for the",
    f"{GPT} model.norm=batchnorm": "model.norm=batchnorm: must be one of layernorm, rmsnorm",
    f"{GPT} model.positions=sinus": "model.positions=sinus: must be one of rotary, learned",
    f"{GPT} model.dropout=2": "model.dropout=2: must be at least 0 and below 1",
    f"{GPT} model.mlp_ratio=0": "model.mlp_ratio=0: must be > 0",
    f"{GPT} model.group_size=3": "model.group_size=3: must divide the number of heads, 2",
    f"{GPT} model.unit_scaling=true": "model.norm_gain=true: unit scaling is without",
    "model=resnet model.groups=3": "model.groups=3: must divide the width 8",
    "model=resnet model.norm=layernorm": "model.norm=layernorm: must be one of groupnorm",
    "model=resnet width=[8,8]": "width=[8, 8]: must be one whole number >= 1 for a ResNet",
    # models of other libraries
    "model=hf data=text": "model.options.config: is missing, and has no default",
    "model=hf_gpt2 width=32 base_width=32": "vocab_size=vocabulary: 'vocabulary' is no size here",
    "model=hf_gpt2 data=text": "width / 32: must be a whole number, and is 0.25 at width 8",
    f"{HF} +model.sizes.n_inner=4*widht": "model.sizes.n_inner=4*widht: 'widht' is no size here",
    f"{HF} +model.sizes.n_inner=0*width": "'0' is no size here; must be a product of whole numbers",
    f"{HF} +model.options.pdrop=0": "model: transformers.GPT2Config has no field pdrop; it has",
    f"{HF} model.options.config=transformers.GPT9Config": "GPT9Config: must be the dotted name of",
    f"{HF} model.options.config=transformers.ViTConfig": "transformers.ViTConfig has no field",
    f"{HF} model.options.resid_pdrop=much": "Validation error for field 'resid_pdrop'",
    f"{HF} +model.options.auto=transformers.AutoModel": "GPT2Model gives no logits; take an",
    f"{HF} +model.foo=1": "model.foo: there is no such key (there are width, constructor, sizes",
    "model=timm": "width=8: no entry of model.sizes follows from it",
    "model=timm +model.sizes.embed_dim=width": "depth=3: no entry of model.sizes follows from it",
    "model=timm_resnet model.options.model_name=resnet7": "timm.create_model: Unknown model (resn",
    "model=timm_mixer +model.options.foo=1": "got an unexpected keyword argument 'foo'",
    "model=timm_mixer model.constructor=tiim.Mixer": "needs the package tiim, which is not inst",
    "model=timm_mixer model.constructor=Mixer": "Mixer: must be the dotted name of a function",
    "model=timm_mixer model.constructor=timm.models.Mixr": "must be the dotted name of a function",
    "model=timm_mixer model.constructor=builtins.dict": "must return an nn.Module, not a dict",
    "model=torchvision_vit": "VisionTransformer: needs in_channels=3; here it is 1",
    # data
    "data=mnist data.root=/nowhere": "data.root=/nowhere: no MNIST files there",
    "data=cifar10 data.root=/nowhere": "data.root=/nowhere: no CIFAR10 files there",
    "data=image_folder data.root=/nowhere": "data.root=/nowhere: no images there",
    "data=image_folder data.root=TMP/empty": "Couldn't find any class folder",
    "data=image_folder data.root=TMP/empty.txt": "Not a directory",
    "data=image_folder data.root=TMP/one_class": "one class only (cat)",
    "data=image_folder data.root=TMP/corrupt": "cannot decode cat/1.png",
    "data=image_folder data.root=TMP/two_sizes": "set data.image_size",
    "data=image_folder data.root=TMP/good data.val_fraction=2": "must be between 0 and 1",
    "data=image_folder data.root=TMP/good data.image_size=0": "must be at least 1 pixel, or null",
    "data=image_folder data.root=TMP/good data.image_size=big": "must be a whole number or null",
    "data=table": "data.file: is missing, and has no default; say data.file=...",
    "data=table data.file=TMP/flats.csv": "data.target: is missing, and has no default",
    "data=table data.file=nowhere.csv data.target=price": "nowhere.csv: must be a CSV file",
    "-m lr=0.1,0.2 data=table data.file=TMP/flats.csv": "data.target: is missing, and has no",
    f"{STACKED} model=torchvision": "model.constructor: is missing, and has no default",
    f"{STACKED} data=table data.file=nowhere.csv data.target=price": "nowhere.csv: must be a CSV",
    f"{STACKED} {TABLE} data.target=price,area": "has words, such as 'Bern', in the columns 'city'",
    "data=table data.file=TMP/index.csv data.target=price": "the numbers of its rows in a column",
    "data=table data.file=TMP/same.csv data.target=price": "price: has one value only, 60",
    f"{TABLE} data.target=prize": "has no such column; did you mean price?",
    f"{TABLE} data.target=price": "has words, such as 'Bern', in the columns 'city'; leave",
    f"{FLATS} data.ignore=city": "data.ignore=city: must be a list of words, such as [a, b]",
    f"{FLATS} data.val_fraction=0": "data.val_fraction=0: leaves one split of 5 rows empty",
    f"{FLATS} data.separator=';'": "has one column, 'area,city,price'; say what stands between",
    f"{GPT} data.file=nowhere.txt": "nowhere.txt: must be a text file in UTF-8, not empty",
    f"{GPT} data.file=TMP/empty.txt": "empty.txt: must be a text file in UTF-8, not empty",
    f"{GPT} data.file=TMP/binary data.level=character": "must be a text file in UTF-8",
    f"{GPT} data.file=TMP/short.txt data.context=512": "the number of tokens in the shorter of",
    f"{GPT} data.level=word": "data.level=word: must be one of byte, character",
    f"{GPT} data.val_fraction=0": "data.val_fraction=0: must be between 0 and 1",
    f"{GPT} data.context=0": "data.context=0: must be at least 1",
    "model=gpt data=tokens data.root=/nowhere": "data.root=/nowhere: must hold train.bin and",
    "model=gpt data=tokens data.root=TMP/cut": "train.bin holds 30 tokens, but manifest",
    "model=gpt data=tokens data.root=TMP/cut data.vocabulary=5": "must be null or at least 64",
    "model=gpt data=random_tokens data.vocabulary=0": "data.vocabulary=0: must be a whole number",
    "model=gpt data=random_tokens data.context=many": "data.context=many: must be a whole number",
    "data._target_=tests.test_bad_input.no_splits": "no_splits: must return mupl.data.Arrays",
    "data._target_=tests.models.keyless": "data (tests.models.keyless): tests.models:keyless "
    "raised KeyError: 'x' (",
    "--config-dir TMP/configs model=unclosed": "configs/model/unclosed.yaml",
    "-m lr=0.1,0.2 data._target_=tests.test_bad_input.no_splits": "must return mupl.data.Arrays",
    # schedules
    "scheduler=cosine scheduler.warmup=100": "scheduler.warmup=100: must be in [0, 1]",
    "scheduler=cosine scheduler.warmup=soon": "scheduler.warmup=soon: must be a number",
    "scheduler=cosine scheduler.decay=2": "scheduler.decay=2: must be in [0, 1 - warmup]",
    "scheduler=step scheduler.milestones=half": "must be a list of numbers, such as [0.5, 0.75]",
    "scheduler=inverse_sqrt scheduler.warmup=0": "inverse_sqrt needs a warm-up > 0",
    "scheduler.shape=sawtooth": "scheduler.shape=sawtooth: must be one of constant, linear",
    # optimizers
    "optimizer.betas=0.9": "optimizer.betas=0.9: must be a list of 2 numbers",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: must be a list of 2 numbers",
    "optimizer.betas=[0.9,1.5]": "optimizer=AdamW: Invalid beta parameter at index 1: 1.5",
    "optimizer=sgd optimizer.momentum=-1": "optimizer=SGD: Invalid momentum value: -1",
    "optimizer=sgd optimizer.momentum=much": "optimizer.momentum=much: must be a number",
    "optimizer=lion optimizer.betas=[0.9,2]": "optimizer.betas=[0.9, 2]: must be in [0, 1)",
    "optimizer=sign_sgd optimizer.momentum=2": "optimizer.momentum=2: must be in [0, 1)",
    "optimizer=muon optimizer.betas=[0.9,2]": "optimizer.betas=[0.9, 2]: must be in [0, 1)",
    "optimizer=muon optimizer.method=qr": "optimizer.method=qr: must be one of svd, muon",
    "optimizer=muon optimizer.roles=[hiden]": "optimizer.roles=hiden: must be of input, hidden",
    "optimizer=muon optimizer.roles=hidden": "optimizer.roles=hidden: must be a list",
    "optimizer=adamh weight_decay=0.1": "weight_decay=0.1: the optimizer itself sets the weight",
    "optimizer=adamh depth=1": "optimizer.roles=hidden: the model has no such matrix",
    "optimizer=adamh optimizer.inner.betas=[0.9,2]": "Invalid beta parameter at index 1: 2",
    "optimizer=adamh +optimizer.inner.lr=1": "say lr=1 beside the optimizer, not in it",
    "optimizer=muonh optimizer.normalise=l1": "optimizer.normalise=l1: must be one of spectral",
    "optimizer=muonh optimizer.inner.method=qr": "optimizer.method=qr: must be one of svd",
    "optimizer=blocked_shampoo optimizer.block_size=0": "optimizer.block_size=0: must be",
    "optimizer=blocked_shampoo optimizer.matrix_eps=-1": "optimizer.matrix_eps=-1: must be a",
    "optimizer=shampoo optimizer.matrix_eps=small": "optimizer.matrix_eps=small: must be a number",
    "optimizer=blocked_shampoo optimizer.graft=lion": "optimizer.graft=lion: must be null or",
    "optimizer=blocked_soap optimizer.graft=adam": "optimizer.graft=adam: no rule",
    "optimizer=muon optimizer.per=row": "optimizer.per=row: must be one of matrix, head, tensor",
    "optimizer=muon optimizer.per=head": "optimizer.per=head: it is not known which tensors",
    "optimizer=scion weight_decay=0.1": "weight_decay=0.1: the optimizer itself sets the weight",
    "optimizer=scion optimizer.matrix_radius=0": "optimizer.matrix_radius=0: must be a number > 0",
    "optimizer=scion optimizer.momentum=2": "optimizer.momentum=2: must be in [0, 1)",
    "optimizer=muon depth=1": "optimizer.roles=hidden: the model has no such matrix",
    "+optimizer.weight_decay=0.3": "say weight_decay=0.3 beside the optimizer, not in it",
    "+optimizer.eps=1e-4": "say eps=0.0001 beside the optimizer, not in it",
    "+optimizer.lr=1": "say lr=1 beside the optimizer, not in it",
    "+optimizer.update_kind=adm": "update_kind=adm: must be one of sgd, adam, orthogonal",
    "~optimizer.betas optimizer._target_=torch.optim.Adagrad": "+optimizer.update_kind=",
    "optimizer._target_=torch.optim.No": "optimizer._target_=torch.optim.No: cannot be imported",
    # the trainer, callbacks and loggers
    "trainer.accelerator=abacus": "accelerator='abacus'",
    "trainer.precision=fp16": "trainer.precision=fp16: must be one of tf32, 32-true",
    "trainer.devices=0": "trainer.devices=0: must be a whole number >= 1, auto, or a list",
    "+trainer.num_nodes=two": "trainer.num_nodes=two: must be a whole number >= 1, auto",
    "-m trainer.devices=2 lr=0.1,0.2": "trainer.devices=2: a job of a sweep has one device",
    "-m trainer=ddp lr=0.1,0.2": "trainer.strategy: a job of a sweep has one device; leave out -m",
    "-m resume=true lr=0.1,0.2": "resume=true: is for a run that is alone; the same command of a",
    "batch_size=7 micro_batches=2": "batch_size=7: must be a multiple of 2, which is devices (1)",
    "micro_batches=0": "micro_batches=0: must be a whole number >= 1",
    "micro_batches=2 +trainer.accumulate_grad_batches=2": "leave out trainer.accumulate_grad_batch",
    "compile=yes_please": "compile=yes_please: must be true or false",
    "checkpoint_activations=1": "checkpoint_activations=1: must be true or false",
    f"{GPT} checkpoint_activations=true model.dropout=0.1": "would draw another mask in the second",
    "resume=3": "resume=3: must be true, false, or the folder of a run",
    "resume=/nowhere": "resume=/nowhere: there is no such folder; say a run's folder, or true",
    "resume=TMP/good": "has no checkpoints/step-*.ckpt; name the folder of a run that saved one",
    "checkpoint.every_steps=0": "checkpoint.every_steps=0: must be a whole number >= 1, or null",
    "checkpoint.every_minutes=0": "checkpoint.every_minutes=0: must be a number > 0, or null",
    "checkpoint.keep=0": "checkpoint.keep=0: must be a whole number >= 1",
    "checkpoint.best=maybe": "checkpoint.best=maybe: must be true or false",
    "checkpoint.evry_steps=5": "checkpoint.evry_steps: there is no such key; did you mean check",
    "sample.tokens=-1": "sample.tokens=-1: must be a whole number >= 0",
    "sample.temperature=-1": "sample.temperature=-1: must be a finite number >= 0",
    "sample.top_k=0": "sample.top_k=0: must be a whole number >= 1, or null",
    "sample.prompt=5": "sample.prompt=5: must be a text",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: must be a finite number >= 0",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps=0: must be a whole number >= 1",
    "trainer.val_check_interval=0": "trainer.val_check_interval=0: must be a number of steps >= 1",
    "trainer.max_epochs=soon": "trainer.max_epochs=soon: must be a whole number >= -1",
    "+trainer.accumulate_grad_batches=0": "accumulate_grad_batches=0: must be a whole number",
    "+trainer.limit_val_batches=-1": "invalid value -1 for limit_val_batches",
    "+trainer.strategy=magic": "strategy='magic'",
    f"{RECORDED}.kinds=[outputs]": "kinds=outputs: must be of output, param, update",
    f"{RECORDED}.statistics=[l7]": "statistics=l7: must be of l1, rms",
    f"{RECORDED}.steps=0": "steps=0: must be a whole number >= 1 or a list of steps",
    f"{RECORDED}.steps=[0,1,5]": "steps=[0, 1, 5]: training ends before step 5; say max_steps=6",
    f"{RECORDED}.steps=[0,-1]": "steps=[0, -1]: must be a whole number >= 1 or a list of steps",
    f"{RECORDED}.steps=often": "steps=often: must be a whole number >= 1 or a list of steps",
    f"{RECORDED}.parameters=[nothing]": "parameters: 'nothing' matches none of layers.0.weight",
    f"{RECORDED}.along=time": "callbacks.coordinates.along=time: must be width or depth",
    f"{RECORDED}.file=table.xyz": "callbacks.coordinates.file=table.xyz: must end in .csv",
    "+callbacks.mine=3": "callbacks.mine=3: must have a _target_",
    "+callbacks.mine={_target_:no.Callback}": "callbacks.mine._target_=no.Callback: cannot be",
    "+logger.mine=file": "logger.mine=file: must have a _target_",
    "logger.csv.save_dir=null": "logger.csv (lightning.pytorch.loggers.csv_logs.CSVLogger): ",
    # sweeps
    "experiment=lr_transfer": "is a sweep over parametrization, width, lr; add -m, or for one",
    "experiment=coord_check": "experiment=coord_check: is a sweep over width, seed; add -m",
    "size=width": "size=width: is a sweep over parametrization, width; add -m",
    "-m experiment=coord_check width=8 seed=0": "width: a coordinate check needs at least two",
    "-m experiment=coord_check_depth depth=2": "depth: a coordinate check needs at least two",
    "-m experiment=coord_check callbacks=none width=8,16": "coordinate_check needs callbacks=coord",
    "-m lr=0.1,0.2 hydra.sweep.subdir=one": "hydra.sweep.subdir=one: jobs of several lr would",
    "-m lr=0.1,0.2 width=8,16 hydra.sweep.subdir=${width}": "jobs of several lr would share a",
    "-m experiment=coord_check +expect.sp=maybe": "expect.sp=maybe: must be one of pass, fail",
    "-m experiment=coord_check expect=fail": "expect=fail: must be by parametrization",
    "-m lr=0.1,0.2 +expect.sp=fail": "expect: is for coordinate checks",
    "-m hydra.callbacks.sweep_report.report=fireworks lr=0.1,0.2": "must be one of ablation",
    "-m hydra.callbacks.sweep_report.report=mupl.no lr=0.1,0.2": "report=mupl.no: ",
    f"{STACKED} hydra.launcher.devices=0": "hydra.launcher.devices=0: must be a whole number >= 1",
    f"{STACKED} hydra.launcher.devices=many": "devices=many: must be a whole number >= 1, or all",
    f"{STACKED} hydra.launcher.devices=2 hydra.launcher.executor=ray": "leave out one",
    f"{STACKED} hydra.launcher.max_members=0": "hydra.launcher.max_members=0: must be a whole",
    f"{STACKED} hydra.launcher.memory_gb=-1": "hydra.launcher.memory_gb=-1.0: must be above 0",
    f"{STACKED} hydra.launcher.save_every=-1": "hydra.launcher.save_every=-1.0: must be >= 0",
    f"{STACKED} +hydra.launcher.resources={{gpus_per_node:1}}": "resources: are an executor's; say",
    f"{STACKED} +hydra.launcher.foo=1": "foo",
    f"{STACKED} hydra.launcher.executor=cloud": "hydra.launcher.executor=cloud: must be null or",
}

IN_A_PROCESS = "lr=-0.1"  # the others in this one, which takes a tenth of the time


def no_mean(output: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


def no_splits(root: str | None) -> list[str | None]:
    return [root]


def write_images(folder: Path, *classes: str, side: int = 8) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for shade in range(4):
            image = np.full((side, side, 3), 20 * shade, np.uint8)
            Image.fromarray(image).save(folder / name / f"{shade}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that are wrong in all the ways that WRONG names."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("to be or not to be")
    (folder / "binary").write_bytes(bytes(range(128, 256)))
    write_images(folder / "good", "cat", "dog")
    (folder / "cut").mkdir()
    for split in ("train", "val"):
        np.zeros(30, np.uint16).tofile(folder / "cut" / f"{split}.bin")
    manifest = {"vocabulary": 64, "tokens": {"train": 40, "val": 30}, "hash": "0"}
    (folder / "cut" / "manifest.json").write_text(json.dumps(manifest))
    write_images(folder / "one_class", "cat")
    rows = ["area,city,price", *[f"{area},Bern,{3 * area}" for area in range(20, 25)]]
    (folder / "flats.csv").write_text("\n".join(rows))
    rows = [",area,price", *[f"{i},{20 + i},{3 * i}" for i in range(9)]]
    (folder / "index.csv").write_text("\n".join(rows))
    (folder / "same.csv").write_text("\n".join(["area,price", *[f"{i},60" for i in range(9)]]))
    (folder / "configs/model").mkdir(parents=True)
    (folder / "configs/model/unclosed.yaml").write_text("a: [1")
    (folder / "unreadable.py").write_text("def build(:")
    write_images(folder / "corrupt", "cat", "dog")
    (folder / "corrupt" / "cat" / "1.png").write_bytes(b"\x89PNG")
    write_images(folder / "two_sizes", "cat")
    write_images(folder / "two_sizes", "dog", side=9)
    return folder


def arguments(text: str, out: Path, data: Path | None = None) -> list[str]:
    """The arguments of a row, small and with an output folder, where they say nothing else."""
    given = text.replace("TMP", str(data)).split()
    said = {word.lstrip("+~").partition("=")[0] for word in given}
    small = {key: value for key, value in SMALL.items() if key not in said}
    if "experiment" in said:
        small = {"trainer": "cpu"}  # the rest is the experiment's
    kind = "sweep" if "-m" in given else "run"
    return [*given, *[f"{key}={value}" for key, value in small.items()], f"hydra.{kind}.dir={out}"]


@pytest.mark.parametrize("text", WRONG)
def test_bad_input_is_one_clear_line_before_any_training(
    text: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = train_anew if text == IN_A_PROCESS else partial(train_here, capfd)
    out = tmp_path / "out"
    done = start(*arguments(text, out, folder))
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert WRONG[text] in lines[0]
    assert not list(out.rglob("metrics.csv"))
    assert "training" not in done.stdout or "0/2" in done.stdout  # no update was made


@pytest.mark.parametrize("text", ["lr=0.1", "-m lr=0.1,0.2"])
def test_an_output_folder_that_cannot_be_is_one_line(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    key = "hydra.sweep.dir" if "-m" in text else "hydra.run.dir"
    done = train_here(capfd, *arguments(text, file / "out"))
    assert done.stderr == f"error: {key}={file / 'out'}: {file} is a file; name a folder\n"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        done = train_here(capfd, *arguments(text, tmp_path / "out"))
    said = f"{key}={tmp_path / 'out'}: {tmp_path} cannot be written to; name another folder"
    assert done.stderr == f"error: {said}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["parametrization=sp,mpu", "optimizer=adam,", "model.foo=1,2"])
def test_a_sweep_without_such_a_choice_or_key_has_no_folder(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(capfd, *arguments(f"-m {text}", tmp_path / "out"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_what_the_user_s_model_raises_is_shown_and_ends_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(capfd, *arguments("model._target_=tests.models.Unfitting", tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: tests.models:Linear.forward raised RuntimeError: mat1 and")
    assert f"({ROOT}/tests/models.py:" in last


def test_what_mupl_raises_is_not_the_user_s() -> None:
    with pytest.raises(TypeError) as raised:
        broken(8)
    assert raised_by_user(raised.value).startswith("tests.models:broken raised TypeError: unsupp")
    with pytest.raises(AttributeError) as raised_in_mupl:
        flat(3)  # type: ignore[arg-type]
    assert raised_by_user(raised_in_mupl.value) == ""


def test_there_are_enough_rows() -> None:
    assert len(WRONG) >= 120


# Arguments -> what is done with them instead: exit code, what stderr says, what stdout says.
HANDLED = {
    "-m seed=0,4294967296": (1, "1 of 2 jobs will fail: seed=4294967296: must be", "1 completed"),
    "-m loss=mupl.training.setup.cross_entropy,torch.nn.functional.mse_loss lr=0.1,0.2": (
        1,
        "2 of 4 jobs will fail: loss: does not fit the model's output (3, 10) float32 and the",
        "2 completed, 2 failed",
    ),
    "-m lr=null,0.1": (1, "1 of 2 jobs will fail: lr=null: must be", "1 completed"),
    "-m lr=0.1 hydra.sweep.subdir=one": (0, "", "1 completed"),
    "base_depth=2": (0, "note: base_depth: parametrization=mup has no rules in depth", "completed"),
    "base_depth=${depth} parametrization=completep": (0, "", "completed"),
    "parametrization=umup base_depth=3": (
        0,
        "the model has no unit-scaled operations",
        "completed",
    ),
    "base_batch_size=32": (0, "note: base_batch_size=32: changes nothing under", "completed"),
    "lr=1e30 optimizer=sgd max_steps=20": (3, "", "diverged at step"),
    "~optimizer.betas optimizer._target_=torch.optim.Adagrad +optimizer.update_kind=adam": (
        0,
        "",
        "completed",
    ),
    "experiment=lr_transfer hydra.sweeper.params=null max_steps=2": (0, "", "completed"),
    "-m lr=${case.lr} +case={lr:0.1},{lr:-1}": (1, "", "lr=-1: must be a finite number > 0"),
    "-m width=8,16 model._target_=tests.models.Unfitting": (1, "", "1 completed, 1 failed"),
    "-m lr=0.1 model._target_=tests.models.OfManyExamples": (0, "", "1 completed"),
    "trainer.devices=auto": (0, "", "completed"),
    "max_steps=2 -m width=8,16": (0, "", "2 completed in"),
}


@pytest.mark.parametrize("text", HANDLED)
def test_input_that_may_be_meant_is_handled(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said, shown = HANDLED[text]
    done = train_here(capfd, *arguments(text, tmp_path / "out"))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said), done.stderr
    assert shown in done.stdout


def test_a_user_s_optimizer_is_scaled_as_its_update_kind_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for kind in ("sgd", "adam"):
        text = "~optimizer.betas optimizer._target_=torch.optim.Adagrad lr=1 width=16 depth=2 "
        text += f"+optimizer.update_kind={kind}"
        assert train_here(capfd, *arguments(text, tmp_path / kind)).returncode == 0
        table = pd.read_csv(tmp_path / kind / "parametrization.csv", index_col="name")
        found.append(table.loc[["layers.0.weight", "layers.1.weight"], "lr"].tolist())
    assert found == [[2, 1], [1, 0.5]]


@pytest.mark.slow
def test_a_width_is_added_to_a_coordinate_check(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check = partial(train_here, capfd, "-m", "experiment=coord_check", "seed=0", "base_width=8")
    to = f"hydra.sweep.dir={tmp_path}"
    assert "coordinate check: " in check("width=8,16", to).stdout
    assert "[1/1] width=32 " in check("width=32", to).stdout
    rows = pd.read_csv(tmp_path / "coord_check.csv")
    assert rows["width"].unique().tolist() == [8, 16, 32]


LOSSES = "docs/transfer/lr_width.csv"
# Arguments of `mupl` -> what the line must contain
WRONG_COMMANDS = {
    "table mupp": "parametrization=mupp: must be one of sp",
    "table --to mup": "mupl table: --to needs --from",
    "table mup --optimizer adamx": "optimizer=adamx: must be one of",
    "describe nowhere:build --width 8 --base-width 4": "nowhere:build: must name a function",
    "describe torch.nn:ReLU --width 0 --base-width 4": "width=0: must be a whole number >= 1",
    "check nowhere:build --widths 8,16": "nowhere:build: must name a function",
    "check torch.nn:Linear --widths 8": "--widths: needs at least two, such as --widths 64,128",
    "check torch.nn:Linear --widths 8,big": "--widths=8,big: must be whole numbers, such as",
    "check torch.nn:Linear --widths 8,16 --seeds 0": "--seeds=0: must be a whole number >= 1",
    "check torch.nn:Linear --widths 8,16 --data torch:eyes": "torch:eyes: must name batches",
    "check tests.models:convolution --widths 8,16": "for a Conv2d; say --data my_package",
    "check os:getcwd --widths 8,16": "build: must be a function width -> nn.Module (too many",
    "check tests.models --widths 8,16": "build: must be a function width -> nn.Module, not a mod",
    "check builtins:float --widths 8,16": "build: must return an nn.Module, not a float",
    "check tests.models:broken --widths 8,16": "tests.models:broken raised TypeError: unsupported",
    "describe tests.models:broken --width 8 --base-width 4": f"({ROOT}/tests/models.py:",
    "report nowhere": "nowhere: there is no such folder",
    "report . --report fireworks": "report=fireworks: must be one of ablation",
    "report . --metric loss": "--metric=loss: must be one of val_loss, train_loss",
    "report . --size width": "--size: is for tables of losses; a sweep's folder says itself",
    "report . --log2": "--log2: is for tables of losses",
    "report . docs": ".: no job left a result",
    "reproduce": "mupl reproduce: needs the name of a figure; --list shows all",
    "reproduce lr_mpl": "lr_mpl: there is no such figure (--list shows all); did you mean lr_mlp?",
    "reproduce base_width --size paper": "--size paper: base_width has size tiny",
    "reproduce completep_depth --size paper --redraw": "of size paper no table is kept; --run",
    f"report {LOSSES} --metric val_loss": "--metric: is for a sweep's folder; the loss of a table",
    f"report {LOSSES} nowhere.csv": "nowhere.csv: there is no such folder or file",
    "report README.md": "README.md: must be a .csv, .tsv or .parquet file",
    f"report {LOSSES} --size widht": "--size widht: there is no such column; did you mean width?",
    f"report {LOSSES} --loss blue": "--loss blue: there is no such column; say one of width, lr",
    f"report {LOSSES} --size lr": "--lr lr: is --size already; say another column",
    f"report {LOSSES} --size model": "--size model: row 1 has 'gpt'; must be a number",
    f"report {LOSSES} --by data,data": "--by data: is --by already; say another column",
    f"report {LOSSES} --by status": "--by status: the report has a column of that name; rename",
    f"report {LOSSES} --by seed,optimizer": "--by seed: is --seed already; say another column",
    f"report {LOSSES} --log2": "row 1 has '0.0009765625'; with --log2 it must be log2",
    f"report {LOSSES} --out README.md": "--out README.md: no such folder can be made (File exists)",
}


def test_a_file_that_python_cannot_read_is_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        main(["check", "unreadable:build", "--widths", "8,16"])
    assert "importable from here (invalid syntax (unreadable.py, line 1))" in str(ended.value.code)


@pytest.mark.parametrize("text", WRONG_COMMANDS)
def test_a_wrong_command_is_one_clear_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main(text.split())
    line = str(ended.value.code)
    assert line.startswith("error: ")
    assert WRONG_COMMANDS[text] in line
    assert "\n" not in line
