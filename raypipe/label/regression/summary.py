"""A fit as a text table in the layout of statsmodels' `summary()`."""

from __future__ import annotations

import math

from raypipe.label.regression.fit_statistics import Fit

_WIDTH = 78
_LARGE_CONDITION = 1_000
_NOTES = {
    "nonrobust": "Standard errors assume independent errors with equal variance.",
    "cluster": "Standard errors are clustered by user: posts of one user may be alike.",
}


def summary(response: str, fit: Fit) -> str:
    """The table of a fit of `response`: a header, one row per term, and statistics of the residuals."""
    uncentered = "" if fit.has_constant else " (uncentered)"
    head = [
        ("Dep. Variable:", response[:22]),
        ("Model:", "WLS" if fit.weighted else "OLS"),
        ("Method:", "Least Squares"),
        ("No. Observations:", str(fit.nobs)),
        ("Df Residuals:", str(fit.df_resid)),
        ("Df Model:", str(fit.df_model)),
        ("Covariance Type:", fit.cov_type),
        ("Groups:", str(fit.n_groups)) if fit.n_groups else ("", ""),
    ]
    right = [
        (f"R-squared{uncentered}:", f"{fit.rsquared:#8.3f}"),
        (f"Adj. R-squared{uncentered}:", f"{fit.rsquared_adj:#8.3f}"),
        ("F-statistic:", f"{fit.fvalue:#8.4g}"),
        ("Prob (F-statistic):", f"{fit.f_pvalue:#6.3g}"),
        ("Log-Likelihood:", f"{fit.llf:#.5g}"),
        ("AIC:", f"{fit.aic:#8.4g}"),
        ("BIC:", f"{fit.bic:#8.4g}"),
        ("Scale:", f"{fit.scale:#8.4g}"),
    ]
    lines = ["Regression Results".center(_WIDTH).rstrip(), "=" * _WIDTH, *_two_columns(head, right), "=" * _WIDTH]
    lines += [*_terms(fit), "=" * _WIDTH]
    if fit.shape is not None:
        shape = fit.shape
        left = [
            ("Omnibus:", _number(shape.omnibus, "#6.3f")),
            ("Prob(Omnibus):", _number(shape.omnibus_p, "#6.3f")),
            ("Skew:", _number(shape.skew, "#6.3f")),
            ("Kurtosis:", _number(shape.kurtosis, "#6.3f")),
        ]
        right = [
            ("Durbin-Watson:", _number(shape.durbin_watson, "#8.3f")),
            ("Jarque-Bera (JB):", _number(shape.jarque_bera, "#8.3f")),
            ("Prob(JB):", _number(shape.jarque_bera_p, "#8.3g")),
            ("Cond. No.", _number(fit.condition_number, "#8.3g")),
        ]
        lines += [*_two_columns(left, right), "=" * _WIDTH]
    note = _NOTES.get(fit.cov_type, f"Standard errors are robust to unequal variances ({fit.cov_type}).")
    notes = [note]
    if fit.condition_number > _LARGE_CONDITION:
        notes.append(
            f"The condition number is large, {fit.condition_number:.3g}: terms may be nearly collinear, or very "
            "different in size."
        )
    return "\n".join([*lines, "", *notes, ""])


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None or math.isnan(value) else format(value, form)


def _fixed(value: float, places: int = 3) -> str:
    # As in statsmodels: a number that fixed places would show as 0, or as many digits, is shown with a power of ten.
    is_plain = value == 0 or math.isnan(value) or 1e-4 <= abs(value) < 1e4
    return f"{value:.{places}f}" if is_plain else f"{value:.{places}g}"


def _two_columns(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> list[str]:
    def cell(name: str, value: str, width: int) -> str:
        return f"{name}{value.strip().rjust(width - len(name))}"

    rows = zip(left, right, strict=True)
    return [f"{cell(a, b, 37)}   {cell(c, d, _WIDTH - 40)}".rstrip() for (a, b), (c, d) in rows]


def _terms(fit: Fit) -> list[str]:
    letter = "t" if fit.cov_type == "nonrobust" else "z"
    first = max(14, *(len(term) + 1 for term in fit.terms)) if fit.terms else 14
    header = f"{'':{first}}{'coef':>10}{'std err':>11}{letter:>11}{f'P>|{letter}|':>11}{'[0.025':>12}{'0.975]':>12}"
    rows = []
    for j, term in enumerate(fit.terms):
        low, high = fit.conf_int[j]
        rows.append(
            f"{term:{first}}{_fixed(fit.params[j], 4):>10}{_fixed(fit.bse[j]):>11}{_fixed(fit.tvalues[j]):>11}"
            f"{fit.pvalues[j]:>11.3f}{_fixed(low):>12}{_fixed(high):>12}"
        )
    return [header, "-" * max(_WIDTH, len(header)), *rows]
