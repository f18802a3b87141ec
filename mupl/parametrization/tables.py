"""The scaling rules, as data: one literal table per parametrization.

How to read one. A row is a role (which dimensions of the tensor grow with width; or the `Multiplier` of a model: of the
attention logits, of a residual branch), a column is what is multiplied:

- `mult`, `init`: the tensor acts as `W = mult * w` with `w ~ init * N(0, sigma^2)`; `w` is what the optimizer sees;
- `KIND.lr`, `KIND.eps`: learning rate and epsilon under updates of that kind, times the global value. `sgd`: updates
  proportional to the gradient; `adam`: any that are invariant to its scale and have entries of size lr; `orthogonal`:
  any that are invariant to its scale and have singular values of size lr (of a vector, its norm). Under an optimizer
  that routes, each tensor follows the kind of its own updates. The symbol `shape_factor` undoes what the optimizer makes of shapes itself;
- `grad`: the gradient of `w` is multiplied by this before the optimizer sees it;
- `wd`: decoupled weight decay; without it that follows from lr (`mupl.parametrization.rules.scale`);
- a prefix `KIND.` restricts any column to one update kind; a missing column or row is all ones.

Tensors of role `scalar` have no dimension that grows with width. Symbols are those of
`mupl.parametrization.cells.SYMBOLS`; m_L is 1 outside the blocks. At the base width and depth m_in = m_out = m_L = 1
and every table but u-muP's is the standard parametrization (up to the abc-symmetry).

A new parametrization is one more entry here and no other line.
"""

TABLES: dict[str, str] = {
    # Standard parametrization: Glorot & Bengio; He et al.; PyTorch's own, 2010
    "sp": """
               mult       init
    input      1          1
    hidden     1          m_in^-1/2
    output     1          m_in^-1/2
    attention  m_in^-1/2  1
    """,
    # Neural tangent parametrization: Jacot et al., Neural Tangent Kernel, 2018
    "ntk": """
               mult
    input      1
    hidden     m_in^-1/2
    output     m_in^-1/2
    attention  m_in^-1/2
    """,
    # SP with per-layer learning rates, full alignment:
    # Everett et al., Scaling Exponents Across Parameterizations and Optimizers, 2024
    "sp_full_align": """
               mult       init       sgd.lr     adam.lr
    input      1          1          m_out^1/2  1
    hidden     1          m_in^-1/2  m_in^-1/2  1/m_in
    output     1          m_in^-1/2  1/m_in     1/m_in
    attention  m_in^-1/2  1          1          1
    """,
    # Mean-field parametrization (one abc-class with muP): Mei et al.; Everett et al., 2018
    "mean_field": """
               mult       sgd.lr  adam.lr    adam.eps         orthogonal.lr
    input      1          m_out   1          1/m_out          m_out^1/2/shape_factor
    hidden     m_in^-1/2  m_out   m_in^-1/2  m_in^-1/2/m_out  m_out^1/2/shape_factor
    output     1/m_in     m_in    1          1/m_in           m_in^1/2/shape_factor
    attention  1/m_in     1       1          1                1
    """,
    # muP, output multiplier (Table 8): Yang et al., Tensor Programs V, 2022
    "mup": """
               mult    init       sgd.lr      adam.lr  adam.eps  orthogonal.lr
    input      1       1          m_out       1        1/m_out   m_out^1/2/shape_factor
    hidden     1       m_in^-1/2  m_out/m_in  1/m_in   1/m_out   m_out^1/2*m_in^-1/2/shape_factor
    output     1/m_in  1          m_in        1        1/m_in    m_in^1/2/shape_factor
    attention  1/m_in  1          1           1        1         1
    """,
    # muP without multipliers (Table 3): Yang et al., Tensor Programs V, 2022
    "mup_table3": """
               mult    init       sgd.lr      adam.lr  adam.eps  orthogonal.lr
    input      1       1          m_out       1        1/m_out   m_out^1/2/shape_factor
    hidden     1       m_in^-1/2  m_out/m_in  1/m_in   1/m_out   m_out^1/2*m_in^-1/2/shape_factor
    output     1       1/m_in     1/m_in      1/m_in   1         m_in^-1/2/shape_factor
    attention  1/m_in  1          1           1        1         1
    """,
    # muP, the original abc form (Table 9): Yang & Hu; Yang et al., Tensor Programs IV and V, 2021
    "mup_table9": """
               mult       init        sgd.lr      adam.lr     adam.eps    orthogonal.lr
    input      m_out^1/2  m_out^-1/2  1           m_out^-1/2  m_out^-1/2  1/shape_factor
    hidden     1          m_in^-1/2   m_out/m_in  1/m_in      1/m_out     m_out^1/2*m_in^-1/2/shape_factor
    output     m_in^-1/2  m_in^-1/2   1           m_in^-1/2   m_in^-1/2   1/shape_factor
    attention  1/m_in     1           1           1           1           1
    """,
    # muP, every w ~ N(0, 1): Yang et al., Tensor Programs V, Lemma J.1 on Table 8, 2022
    "unit_init": """
               mult             init     sgd.lr         adam.lr          adam.eps               orthogonal.lr
    input      sigma            1/sigma  m_out/sigma^2  1/sigma          sigma/m_out            m_out^1/2/sigma/shape_factor
    hidden     sigma*m_in^-1/2  1/sigma  m_out/sigma^2  m_in^-1/2/sigma  sigma*m_in^-1/2/m_out  m_out^1/2/sigma/shape_factor
    output     sigma/m_in       1/sigma  m_in/sigma^2   1/sigma          sigma/m_in             m_in^1/2/sigma/shape_factor
    attention  1/m_in           1        1              1                1                      1
    """,
    # MuLinear: multipliers and gradient factors in the layer, one global lr, eps and weight decay:
    # abcd-parametrization; equals Table 9 under SGD and Table 8 under Adam, 2024
    "mulinear": """
               sgd.mult             sgd.init               adam.mult       adam.init            adam.grad
    input      alpha^1/2*m_out^1/2  alpha^-1/2*m_out^-1/2  alpha^1/2       alpha^-1/2           m_out
    hidden     alpha^1/2            alpha^-1/2*m_in^-1/2   alpha^1/2/m_in  alpha^-1/2*m_in^1/2  m_in^2
    output     alpha^1/2*m_in^-1/2  alpha^-1/2*m_in^-1/2   alpha^1/2/m_in  alpha^-1/2           m_in
    scalar     alpha^1/2            alpha^-1/2             alpha^1/2       alpha^-1/2           1
    attention  1/m_in               1                      1/m_in          1                    1
    """,
    # Cerebras-style muP: learning-rate adjustment groups, output multiplier: Dey et al., Cerebras-GPT, 2023
    "cerebras": """
               adam.mult  adam.init  adam.lr  adam.eps
    input      1          1          1        1/m_out
    hidden     1          m_in^-1/2  1/m_in   1/m_out
    output     1/m_in     1          1        1/m_in
    attention  1/m_in     1          1        1
    """,
    # muP in width and depth, residual branches times depth^-1/2:
    # Yang et al., Tensor Programs VI; eps and weight decay as Dey et al., CompleteP, 2023
    "depth_mup": """
               mult      init       sgd.lr      adam.lr        adam.eps        adam.wd
    input      1         1          m_out       m_L^-1/2       m_L^-1/2/m_out  1
    hidden     1         m_in^-1/2  m_out/m_in  m_L^-1/2/m_in  m_L^-1/2/m_out  m_in
    output     1/m_in    1          m_in        m_L^-1/2       m_L^-1/2/m_in   1
    scalar     1         1          1           m_L^-1/2       m_L^-1/2        1
    attention  1/m_in    1          1           1              1               1
    residual   m_L^-1/2  1          1           1              1               1
    """,
    # CompleteP: muP in width and depth, residual branches times 1/depth:
    # Dey et al., Don't be lazy: CompleteP (Adam; the lr of SGD by the same condition on updates), 2025
    "completep": """
               mult    init       sgd.lr          adam.lr  adam.eps
    input      1       1          m_L*m_out       1        1/m_L/m_out
    hidden     1       m_in^-1/2  m_L*m_out/m_in  1/m_in   1/m_L/m_out
    output     1/m_in  1          m_L*m_in        1        1/m_L/m_in
    scalar     1       1          m_L             1        1/m_L
    attention  1/m_in  1          1               1        1
    residual   1/m_L   1          1               1        1
    """,
    # Absolute: at no width SP. For models of unit-scaled operations (mupl.nn.unit_scaling), under Adam for any model.
    # u-muP: unit scaling; SGD where the readout passes unit gradients on: Blake et al., u-muP, 2024
    "umup": """
               mult        init     sgd.lr                                adam.lr
    input      terms^-1/2  1/sigma  m_L^-1/2*terms^-1/2*d_embedding^-1/2  m_L^-1/2*terms^-1/2*d_embedding^-1/2
    hidden     terms^-1/2  1/sigma  m_L^-1/2*terms^-1/2                   m_L^-1/2*terms^-1/2
    output     1/terms     1/sigma  m_L^-1/2                              m_L^-1/2
    scalar     1           1        m_L^-1/2                              m_L^-1/2
    attention  1/m_in      1        1                                     1
    """,
    # u-muP under SGD where the readout's backward multiplier is its forward one: Blake et al., u-muP, 2024
    "umup_output_scale": """
               sgd.mult    sgd.init  sgd.lr
    input      terms^-1/2  1/sigma   m_L^-1/2*terms^1/2*d_embedding^1/2*length
    hidden     terms^-1/2  1/sigma   m_L^-1/2*terms^1/2
    output     1/terms     1/sigma   m_L^-1/2
    scalar     1           1         m_L^-1/2*length
    attention  1/m_in      1         1
    """,
}
