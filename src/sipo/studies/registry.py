"""The studies by name."""

from sipo.errors import SipoError
from sipo.studies import catalogue
from sipo.studies.filters import FilterStudy
from sipo.studies.rates import RateStudy
from sipo.studies.responses import ResponseStudy
from sipo.studies.study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        catalogue.CONFLICTS,
        catalogue.METHODS,
        catalogue.ABLATION,
        catalogue.DESIGN,
        catalogue.SOUPS,
        catalogue.NONCONFLICT,
        catalogue.STRENGTH,
        catalogue.LAYERS,
        ResponseStudy(),
        RateStudy(),
        FilterStudy(),
    )
}


def find_study(name: str) -> Study:
    if name not in STUDIES:
        raise SipoError(f"`{name}` is no study; they are {', '.join(STUDIES)}")
    return STUDIES[name]
