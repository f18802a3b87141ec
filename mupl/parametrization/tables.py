"""The scaling rules, as data: one literal table per parametrization.

The first line says what it is and where it is from: `ABOUT: PAPER, YEAR`. Below it a row is a role:
which dimensions of a tensor grow with width. A column is what is multiplied:

- `mult`, `init`: the tensor acts as `W = mult * w` with `w ~ init * N(0, sigma^2)`; the optimizer
  sees `w`;
- `KIND.lr`, `KIND.eps`: learning rate and epsilon under updates of one kind, times the global
  value. `sgd`: updates are proportional to the gradient; `adam`: they are invariant to its scale
  and have entries of size lr; `orthogonal`: they are invariant to its scale and have singular
  values of size lr (a vector has the norm lr). Under an optimizer that routes, each tensor follows
  the kind of its own updates. The symbol `shape_factor` undoes what the optimizer itself makes of
  shapes. The other kinds follow from the columns of these unless they are here
  (`mupl.parametrization.update_kinds.DERIVED`): `rotated`, `rotated_in` and `rotated_out`, Adam in
  an eigenbasis of the gradient; `sign`; `normalized`, updates that are divided by their norm;
  `relative` and `relative_low_rank`, those whose norm is lr times the one of the tensor;
- `grad`: the gradient of `w` is multiplied by this before the optimizer sees it;
- `wd`: decoupled weight decay; without this column it follows from lr (`mupl.optim.scaling.scale`);
- a prefix `KIND.` restricts any column to one update kind; a missing column or row is all ones.
  A blank line begins a block of further columns.

Rows beside the roles:

- `copies`: multiplies the row of a tensor that holds m_copies times as many matrices as at the base
  width, one for each expert. Each of them sees a share of the examples that falls as their
  number grows, and so do its gradients: SGD's lr makes up for it, eps follows it, and an update
  that is invariant to the scale of the gradient stays;
- `attention`, `residual`: the multiplier of attention logits and of a residual branch;
- `input_embedding`, `input_vector`, `scalar_vector`: embeddings, and tensors of fewer than two
  dimensions such as biases and gains, where their rule differs from the one of their role.

Tensors of role `scalar` have no dimension that grows with width. Symbols are explained in
`mupl.parametrization.cells.SYMBOLS`; m_L is 1 outside the blocks. At the base width and depth
m_in = m_out = m_L = 1, and every table but u-muP's is the standard parametrization (up to the
abc-symmetry).

A new parametrization is one more entry here and no other line.
"""

TABLES: dict[str, str] = {
    "sp": """
    standard parametrization: Glorot & Bengio; He et al.; PyTorch's own, 2010
               mult       init
    input      1          1
    hidden     1          m_in^-1/2
    output     1          m_in^-1/2
    attention  m_in^-1/2  1
    """,
    "ntk": """
    neural tangent parametrization: Jacot et al., Neural Tangent Kernel, 2018
               mult
    input      1
    hidden     m_in^-1/2
    output     m_in^-1/2
    attention  m_in^-1/2
    """,
    "sp_full_align": """
    SP with per-layer learning rates, full alignment: Everett et al., Scaling Exponents, 2024
               mult       init       sgd.lr     adam.lr
    input      1          1          m_out^1/2  1
    hidden     1          m_in^-1/2  m_in^-1/2  1/m_in
    output     1          m_in^-1/2  1/m_in     1/m_in
    copies     1          1          m_copies   1
    attention  m_in^-1/2  1          1          1
    """,
    "ntk_full_align": """
    NTK with per-layer learning rates, full alignment: Everett et al., Scaling Exponents, 2024
               mult       sgd.lr     adam.lr    adam.eps
    input      1          m_out^1/2  1          1
    hidden     m_in^-1/2  m_in^1/2   m_in^-1/2  m_in^-1/2
    output     m_in^-1/2  1          m_in^-1/2  m_in^-1/2
    copies     1          m_copies   1          1
    attention  m_in^-1/2  1          1          1
    """,
    "mean_field": """
    mean-field parametrization (one abc-class with muP): Mei et al.; Everett et al., 2018
               mult       sgd.lr    adam.lr    adam.eps         orthogonal.lr
    input      1          m_out     1          1/m_out          m_out^1/2/shape_factor
    hidden     m_in^-1/2  m_out     m_in^-1/2  m_in^-1/2/m_out  m_out^1/2/shape_factor
    output     1/m_in     m_in      1          1/m_in           m_in^1/2/shape_factor
    copies     1          m_copies  1          1/m_copies       1
    attention  1/m_in     1         1          1                1
    """,
    "mup": """
    muP, output multiplier: Yang et al., Tensor Programs V, Table 8, 2022
               mult    init       sgd.lr      adam.lr  adam.eps    orthogonal.lr
    input      1       1          m_out       1        1/m_out     m_out^1/2/shape_factor
    hidden     1       m_in^-1/2  m_out/m_in  1/m_in   1/m_out     m_out^1/2*m_in^-1/2/shape_factor
    output     1/m_in  1          m_in        1        1/m_in      m_in^1/2/shape_factor
    copies     1       1          m_copies    1        1/m_copies  1
    attention  1/m_in  1          1           1        1           1
    """,
    "mup_table3": """
    muP without multipliers: Yang et al., Tensor Programs V, Table 3, 2022
               mult    init       sgd.lr      adam.lr  adam.eps    orthogonal.lr
    input      1       1          m_out       1        1/m_out     m_out^1/2/shape_factor
    hidden     1       m_in^-1/2  m_out/m_in  1/m_in   1/m_out     m_out^1/2*m_in^-1/2/shape_factor
    output     1       1/m_in     1/m_in      1/m_in   1           m_in^-1/2/shape_factor
    copies     1       1          m_copies    1        1/m_copies  1
    attention  1/m_in  1          1           1        1           1
    """,
    "mup_table9": """
    muP, the original abc form: Yang & Hu; Yang et al., Tensor Programs IV; V, Table 9, 2021
               mult       init        sgd.lr      orthogonal.lr
    input      m_out^1/2  m_out^-1/2  1           1/shape_factor
    hidden     1          m_in^-1/2   m_out/m_in  m_out^1/2*m_in^-1/2/shape_factor
    output     m_in^-1/2  m_in^-1/2   1           1/shape_factor
    copies     1          1           m_copies    1
    attention  1/m_in     1           1           1

               adam.lr     adam.eps
    input      m_out^-1/2  m_out^-1/2
    hidden     1/m_in      1/m_out
    output     m_in^-1/2   m_in^-1/2
    copies     1           1/m_copies
    """,
    "unit_init": """
    muP, every w ~ N(0, 1): Yang et al., Tensor Programs V, Lemma J.1 on Table 8, 2022
               mult             init     sgd.lr         orthogonal.lr
    input      sigma            1/sigma  m_out/sigma^2  m_out^1/2/sigma/shape_factor
    hidden     sigma*m_in^-1/2  1/sigma  m_out/sigma^2  m_out^1/2/sigma/shape_factor
    output     sigma/m_in       1/sigma  m_in/sigma^2   m_in^1/2/sigma/shape_factor
    copies     1                1        m_copies       1
    attention  1/m_in           1        1              1

               adam.lr          adam.eps
    input      1/sigma          sigma/m_out
    hidden     m_in^-1/2/sigma  sigma*m_in^-1/2/m_out
    output     1/sigma          sigma/m_in
    copies     1                1/m_copies
    """,
    # One global lr, eps and weight decay: multipliers and gradient factors are in the layer.
    "mulinear": """
    MuLinear, Table 9 under SGD and Table 8 under Adam: abcd-parametrization, 2024
               sgd.mult             sgd.init               sgd.grad
    input      alpha^1/2*m_out^1/2  alpha^-1/2*m_out^-1/2  1
    hidden     alpha^1/2            alpha^-1/2*m_in^-1/2   1
    output     alpha^1/2*m_in^-1/2  alpha^-1/2*m_in^-1/2   1
    scalar     alpha^1/2            alpha^-1/2             1
    copies     1                    1                      m_copies
    attention  1/m_in               1                      1

               adam.mult       adam.init            adam.grad
    input      alpha^1/2       alpha^-1/2           m_out
    hidden     alpha^1/2/m_in  alpha^-1/2*m_in^1/2  m_in^2
    output     alpha^1/2/m_in  alpha^-1/2           m_in
    scalar     alpha^1/2       alpha^-1/2           1
    copies     1               1                    m_copies
    attention  1/m_in          1                    1
    """,
    "cerebras": """
    muP with learning-rate adjustment groups, output multiplier: Dey et al., Cerebras-GPT, 2023
               adam.mult  adam.init  adam.lr  adam.eps
    input      1          1          1        1/m_out
    hidden     1          m_in^-1/2  1/m_in   1/m_out
    output     1/m_in     1          1        1/m_in
    copies     1          1          1        1/m_copies
    attention  1/m_in     1          1        1
    """,
    # eps and weight decay as in CompleteP
    "depth_mup": """
    muP in width and depth, branches times depth^-1/2: Yang et al., Tensor Programs VI, 2023
               mult      init       sgd.lr      adam.lr        adam.eps        adam.wd
    input      1         1          m_out       m_L^-1/2       m_L^-1/2/m_out  1
    hidden     1         m_in^-1/2  m_out/m_in  m_L^-1/2/m_in  m_L^-1/2/m_out  m_in
    output     1/m_in    1          m_in        m_L^-1/2       m_L^-1/2/m_in   1
    scalar     1         1          1           m_L^-1/2       m_L^-1/2        1
    copies     1         1          m_copies    1              1/m_copies      1
    attention  1/m_in    1          1           1              1               1
    residual   m_L^-1/2  1          1           1              1               1
    """,
    # published for Adam; the lr of SGD by the same condition on updates
    "completep": """
    muP in width and depth, branches times 1/depth: Dey et al., CompleteP, 2025
               mult    init       sgd.lr          adam.lr  adam.eps
    input      1       1          m_L*m_out       1        1/m_L/m_out
    hidden     1       m_in^-1/2  m_L*m_out/m_in  1/m_in   1/m_L/m_out
    output     1/m_in  1          m_L*m_in        1        1/m_L/m_in
    scalar     1       1          m_L             1        1/m_L
    copies     1       1          m_copies        1        1/m_copies
    attention  1/m_in  1          1               1        1
    residual   1/m_L   1          1               1        1
    """,
    # Absolute: at no width SP. For models of unit-scaled operations (mupl.nn.unit_scaling), under
    # Adam for any model. Under SGD the readout passes unit gradients on.
    "umup": """
    u-muP, unit scaling: Blake et al., u-muP, 2024
                     mult         init     sgd.lr                 adam.lr
    input            fan_in^-1/2  1/sigma  m_L^-1/2*fan_in^-1/2   m_L^-1/2*fan_in^-1/2
    input_embedding  1            1/sigma  m_L^-1/2*fan_out^-1/2  m_L^-1/2*fan_out^-1/2
    input_vector     1            1/sigma  m_L^-1/2               m_L^-1/2
    hidden           fan_in^-1/2  1/sigma  m_L^-1/2*fan_in^-1/2   m_L^-1/2*fan_in^-1/2
    output           1/fan_in     1/sigma  m_L^-1/2               m_L^-1/2
    scalar           1            1        m_L^-1/2               m_L^-1/2
    attention        1/m_in       1        1                      1
    """,
    "umup_output_scale": """
    u-muP under SGD, readout with its forward multiplier backward too: Blake et al., u-muP, 2024
                     sgd.mult     sgd.init  sgd.lr
    input            fan_in^-1/2  1/sigma   m_L^-1/2*fan_in^1/2
    input_embedding  1            1/sigma   m_L^-1/2*fan_out^1/2
    input_vector     1            1/sigma   m_L^-1/2*fan_out
    hidden           fan_in^-1/2  1/sigma   m_L^-1/2*fan_in^1/2
    output           1/fan_in     1/sigma   m_L^-1/2
    scalar           1            1         m_L^-1/2
    scalar_vector    1            1         m_L^-1/2*fan_out
    attention        1/m_in       1         1
    """,
}

# Tables for models of unit-scaled operations, which scale gradients of the loss. Updates of SGD
# feel that, so that under SGD they fit no other model. The value says whether the readout has a
# backward multiplier of its own (`mupl.nn.unit_scaling.UnitLinear(readout=True)`).
UNIT_SCALED: dict[str, bool] = {"umup": True, "umup_output_scale": False}
