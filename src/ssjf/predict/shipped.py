"""The predictor that comes with the package: trained on published answer lengths, corrected by what it serves.

Its card tells what it was trained on and how well it ranks: `ssjf/predict/default/card.json`. It is made by
`training/default_predictor.py`.
"""

from ssjf.predict.artefact import SHIPPED, read_predictor
from ssjf.predict.online import OnlinePredictor


def load_default() -> OnlinePredictor:
    """A new one, which has learned from nothing that was served yet.

    Raises:
        ArtefactError: the installation is damaged.
    """
    return OnlinePredictor(read_predictor(SHIPPED))
