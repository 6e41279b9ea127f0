"""Write survival.json: what scikit-survival makes of 90 patients of lifelines' GBSG2.

Run where both are installed (neither is a dependency):
    python tests/metrics/goldens/make_survival.py
Months instead of days, so that many times are equal.
"""

import json
import pathlib

import lifelines.datasets
import lifelines.utils
import numpy as np
import sksurv
import sksurv.metrics
import sksurv.nonparametric
import sksurv.util


def main() -> None:
    table = lifelines.datasets.load_gbsg2()[:90]
    times = np.ceil(table["time"].to_numpy() / 30.0)
    events = table["cens"].to_numpy().astype(bool)
    # A risk with ties, and one curve for each patient by it: no fitted model needed.
    risks = np.minimum(table["pnodes"].to_numpy(), 12).astype(float)
    horizons = np.array([12.0, 18.0, 24.0, 36.0, 48.0])
    survival = np.exp(-np.outer(0.2 + risks / 8, horizons / 60))
    pairs = sksurv.util.Surv.from_arrays(events, times)
    train = pairs[:60]
    censoring = sksurv.nonparametric.CensoringDistributionEstimator().fit(pairs)
    of = sksurv.metrics
    found = {
        "versions": {"scikit-survival": sksurv.__version__},
        "times": times.tolist(),
        "events": events.tolist(),
        "risks": risks.tolist(),
        "horizons": horizons.tolist(),
        "survival": survival.tolist(),
        "n_train": 60,
        "censoring": censoring.predict_proba(horizons).tolist(),
        "harrell": of.concordance_index_censored(events, times, risks)[0],
        "lifelines": lifelines.utils.concordance_index(times, -risks, events),
        "uno": of.concordance_index_ipcw(pairs, pairs, risks)[0],
        "uno_36": of.concordance_index_ipcw(pairs, pairs, risks, tau=36.0)[0],
        "uno_train_36": of.concordance_index_ipcw(train, pairs, risks, tau=36.0)[0],
        "brier": of.brier_score(pairs, pairs, survival, horizons)[1].tolist(),
        "brier_train": of.brier_score(train, pairs[60:], survival[60:], horizons)[
            1
        ].tolist(),
        "integrated": of.integrated_brier_score(pairs, pairs, survival, horizons),
    }
    path = pathlib.Path(__file__).with_name("survival.json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
