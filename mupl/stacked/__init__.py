"""THE SECOND ENGINE: many runs of one shape trained as one model. A reader may skip it at first.

Nothing but Hydra's plugin (`hydra/launcher=stacked`) imports this package: without it every job of
a sweep is one run of `mupl.training.run`, slower and with the same results.

In the order of the data:

- `plugin/` is where Hydra finds the launcher; `options` are its options (`hydra.launcher.*`).
- `compose` makes the config of each job, `launcher` makes a `Job` of it (`member`), looks for what
  is done already, and for the jobs that other processes train (`mupl.claims`). `finish` leaves of a
  job what Hydra does.
- `stacks` puts jobs into stacks: `describe` makes a job's setup, `plan` says which jobs may share a
  stack, and how many of them. `executors` may send a stack to another machine, `devices` to another
  GPU of this one. `cohorts` says which jobs of a halving are compared, in whatever stacks.
- `train` trains it, wherever it is: it builds the stack, asks it for steps, validates, saves and
  stops; `progress` shows how far it is, and `memory` keeps what a CPU's tensors leave.
- `stack` is the training loop. It is made of `model` (the setups of S members become one module
  with weights (S, ...)), `batches` (one batch a seed), `optimizer` (one update of all members) with
  its `rules`, and `compiled` (kernels and CUDA graphs).
- `checkpoint` is the file from which a stack goes on, `output` writes what each run would have
  left.

What it guarantees, and the tests that hold it:

- A member's trajectory is the one of the run alone: in float64 losses and weights agree to 1e-10,
  for every optimizer and parametrization mixed in one stack (tests/test_stack.py,
  tests/test_stacked_gpt.py).
- A sweep leaves the files of Hydra's basic launcher, and jobs that cannot be stacked run one by
  one, with a line that says why (tests/test_launcher.py, tests/test_plan.py).
- A sweep that was interrupted or killed goes on and ends as if nothing had been; a member that
  diverges is frozen and touches no other (tests/test_launcher.py, tests/test_stack.py).
- Several devices leave what one leaves, and halving drops the same jobs (tests/test_devices.py).
"""
