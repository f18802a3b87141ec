"""The scaling rules, as data: one literal table per parametrization.

How to read one. A row is a role (which dimensions of the tensor grow with width), a column is what is multiplied:

- `mult`, `init`: the tensor acts as `W = mult * w` with `w ~ init * N(0, sigma^2)`; `w` is what the optimizer sees;
- `FAMILY.lr`, `FAMILY.eps`: learning rate and epsilon of the optimizer family, times the global value. `sgd`: updates
  proportional to the gradient; `adam`: any that are invariant to its scale and have entries of size lr; `orthogonal`:
  any that are invariant to its scale and have singular values of size lr (of a vector, its norm). Under an optimizer
  that routes, each tensor follows its own family. The symbol `own` undoes what the optimizer makes of shapes itself;
- `grad`: the gradient of `w` is multiplied by this before the optimizer sees it;
- a prefix `FAMILY.` restricts any column to one family; a missing column is all ones.

Weight decay has no column: it follows from lr (`mupl.parametrization.rules.scales`). Tensors of role `scalar` have no
dimension that grows, so every cell of theirs is 1. Symbols are those of `mupl.parametrization.monomial.SYMBOLS`; at
the base width m_in = m_out = 1 and every table is the standard parametrization (up to the abc-symmetry).

A new parametrization is one more entry here and no other line.
"""

# name: (title, paper, year, table)
TABLES: dict[str, tuple[str, str, int, str]] = {
    "sp": (
        "Standard parametrization",
        "Glorot & Bengio; He et al.; PyTorch's own",
        2010,
        """
                init
        input   1
        hidden  m_in^-1/2
        output  m_in^-1/2
        """,
    ),
    "ntk": (
        "Neural tangent parametrization",
        "Jacot et al., Neural Tangent Kernel",
        2018,
        """
                mult
        input   1
        hidden  m_in^-1/2
        output  m_in^-1/2
        """,
    ),
    "sp_full_align": (
        "SP with per-layer learning rates, full alignment",
        "Everett et al., Scaling Exponents Across Parameterizations and Optimizers",
        2024,
        """
                init       sgd.lr     adam.lr
        input   1          m_out^1/2  1
        hidden  m_in^-1/2  m_in^-1/2  1/m_in
        output  m_in^-1/2  1/m_in     1/m_in
        """,
    ),
    "mean_field": (
        "Mean-field parametrization (one abc-class with muP)",
        "Mei et al.; Everett et al.",
        2018,
        """
                mult       sgd.lr  adam.lr    adam.eps         orthogonal.lr
        input   1          m_out   1          1/m_out          m_out^1/2/own
        hidden  m_in^-1/2  m_out   m_in^-1/2  m_in^-1/2/m_out  m_out^1/2/own
        output  1/m_in     m_in    1          1/m_in           m_in^1/2/own
        """,
    ),
    "mup": (
        "muP, output multiplier (Table 8)",
        "Yang et al., Tensor Programs V",
        2022,
        """
                mult    init       sgd.lr      adam.lr  adam.eps  orthogonal.lr
        input   1       1          m_out       1        1/m_out   m_out^1/2/own
        hidden  1       m_in^-1/2  m_out/m_in  1/m_in   1/m_out   m_out^1/2*m_in^-1/2/own
        output  1/m_in  1          m_in        1        1/m_in    m_in^1/2/own
        """,
    ),
    "mup_table3": (
        "muP without multipliers (Table 3)",
        "Yang et al., Tensor Programs V",
        2022,
        """
                init       sgd.lr      adam.lr  adam.eps  orthogonal.lr
        input   1          m_out       1        1/m_out   m_out^1/2/own
        hidden  m_in^-1/2  m_out/m_in  1/m_in   1/m_out   m_out^1/2*m_in^-1/2/own
        output  1/m_in     1/m_in      1/m_in   1         m_in^-1/2/own
        """,
    ),
    "mup_table9": (
        "muP, the original abc form (Table 9)",
        "Yang & Hu; Yang et al., Tensor Programs IV and V",
        2021,
        """
                mult       init        sgd.lr      adam.lr     adam.eps    orthogonal.lr
        input   m_out^1/2  m_out^-1/2  1           m_out^-1/2  m_out^-1/2  1/own
        hidden  1          m_in^-1/2   m_out/m_in  1/m_in      1/m_out     m_out^1/2*m_in^-1/2/own
        output  m_in^-1/2  m_in^-1/2   1           m_in^-1/2   m_in^-1/2   1/own
        """,
    ),
    "unit_init": (
        "muP, every w ~ N(0, 1)",
        "Yang et al., Tensor Programs V, Lemma J.1 on Table 8",
        2022,
        """
                mult             init     sgd.lr         adam.lr          adam.eps               orthogonal.lr
        input   sigma            1/sigma  m_out/sigma^2  1/sigma          sigma/m_out            m_out^1/2/sigma/own
        hidden  sigma*m_in^-1/2  1/sigma  m_out/sigma^2  m_in^-1/2/sigma  sigma*m_in^-1/2/m_out  m_out^1/2/sigma/own
        output  sigma/m_in       1/sigma  m_in/sigma^2   1/sigma          sigma/m_in             m_in^1/2/sigma/own
        """,
    ),
    "mulinear": (
        "MuLinear: multipliers and gradient factors in the layer, one global lr, eps and weight decay",
        "abcd-parametrization; equals Table 9 under SGD and Table 8 under Adam",
        2024,
        """
                sgd.mult             sgd.init               adam.mult       adam.init            adam.grad
        input   alpha^1/2*m_out^1/2  alpha^-1/2*m_out^-1/2  alpha^1/2       alpha^-1/2           m_out
        hidden  alpha^1/2            alpha^-1/2*m_in^-1/2   alpha^1/2/m_in  alpha^-1/2*m_in^1/2  m_in^2
        output  alpha^1/2*m_in^-1/2  alpha^-1/2*m_in^-1/2   alpha^1/2/m_in  alpha^-1/2           m_in
        scalar  alpha^1/2            alpha^-1/2             alpha^1/2       alpha^-1/2           1
        """,
    ),
    "cerebras": (
        "Cerebras-style muP: learning-rate adjustment groups, output multiplier",
        "Dey et al., Cerebras-GPT",
        2023,
        """
                adam.mult  adam.init  adam.lr  adam.eps
        input   1          1          1        1/m_out
        hidden  1          m_in^-1/2  1/m_in   1/m_out
        output  1/m_in     1          1        1/m_in
        """,
    ),
}
