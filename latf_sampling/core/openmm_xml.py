"""OpenMM's XML files, refused before OpenMM reads them where reading them could run a program.

`openmm.XmlSerializer.deserialize` unpickles the function of a PythonForce, which runs any code. A System or a State of
somebody else is therefore parsed here first: every serialized object has to be of a class that holds numbers and
expressions alone.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NoReturn, TypeVar
from xml.parsers import expat

import openmm

from latf_sampling.errors import DataError

Content = TypeVar("Content", openmm.System, openmm.State, openmm.Integrator)

FORCES = frozenset([
    "ATMForce", "AmoebaGeneralizedKirkwoodForce", "AmoebaMultipoleForce", "AmoebaTorsionTorsionForce",
    "AmoebaVdwForce", "AmoebaWcaDispersionForce", "AndersenThermostat", "CMAPTorsionForce", "CMMotionRemover",
    "ConstantPotentialForce", "CustomAngleForce", "CustomBondForce", "CustomCVForce", "CustomCentroidBondForce",
    "CustomCompoundBondForce", "CustomExternalForce", "CustomGBForce", "CustomHbondForce",
    "CustomManyParticleForce", "CustomNonbondedForce", "CustomTorsionForce", "CustomVolumeForce", "DrudeForce",
    "GBSAOBCForce", "GayBerneForce", "HarmonicAngleForce", "HarmonicBondForce", "HippoNonbondedForce", "LCPOForce",
    "MonteCarloAnisotropicBarostat", "MonteCarloBarostat", "MonteCarloFlexibleBarostat",
    "MonteCarloMembraneBarostat", "NonbondedForce", "OrientationRestraintForce", "PeriodicTorsionForce",
    "RBTorsionForce", "RGForce", "RMSDForce", "RPMDMonteCarloBarostat",
])  # fmt: skip
"""OpenMM's forces that are numbers and expressions alone: all but PythonForce. Forces of plugins, like TorchForce, are
programs."""
INTEGRATORS = frozenset([
    "BrownianIntegrator", "CompoundIntegrator", "CustomIntegrator", "DPDIntegrator", "DrudeLangevinIntegrator",
    "DrudeNoseHooverIntegrator", "DrudeSCFIntegrator", "LangevinIntegrator", "LangevinMiddleIntegrator",
    "NoseHooverIntegrator", "QTBIntegrator", "RPMDIntegrator", "VariableLangevinIntegrator",
    "VariableVerletIntegrator", "VerletIntegrator",
])  # fmt: skip
"""OpenMM's integrators."""
FUNCTIONS = frozenset(f"{kind}{n}DFunction" for kind in ("Continuous", "Discrete") for n in (1, 2, 3))
"""OpenMM's tabulated functions."""
_DATA = FORCES | INTEGRATORS | FUNCTIONS | {"System", "State"}
_DEEPEST = 100
"""Elements inside each other; OpenMM's own files have some ten, and its reader calls itself for each."""
_NUMBERS = frozenset([
    "A", "B", "C", "Angle", "Bond", "Constraint", "Exception", "Particle", "Position", "Torsion", "Value", "Velocity",
])  # fmt: skip
"""Elements whose attributes are all numbers. OpenMM reads a word in place of one as zero."""
_NO_NUMBER = re.compile(r"[+-]?(nan(\(.*\))?|inf(inity)?)", re.IGNORECASE)


def read_openmm_xml(file: str | Path, kind: type[Content]) -> Content:
    """The object in a file that `openmm.XmlSerializer` wrote.

    Raises
    ------
    DataError
        As `deserialize`; or the file is missing, compressed, or no text.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    if content[:2] == b"\x1f\x8b":
        raise DataError(f"{file} cannot be read (it is compressed by gzip; unpack it first).")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} cannot be read ({error.reason} at byte {error.start}; it is no XML file of OpenMM)."
        ) from error
    return deserialize(text, kind, str(file))


def deserialize(text: str, kind: type[Content], source: str) -> Content:
    """The object in a text that `openmm.XmlSerializer` wrote, if reading it cannot run a program.

    Parameters
    ----------
    text
        The XML.
    kind
        ``openmm.System``, ``openmm.State`` or ``openmm.Integrator``.
    source
        Where the text comes from, for errors.

    Raises
    ------
    DataError
        The text is no XML of OpenMM, is another object, holds a force that is a program (PythonForce, TorchForce) or is
        unknown, or a value that is not a finite number; names it.

    Examples
    --------
    >>> text = openmm.XmlSerializer.serialize(openmm.System())
    >>> deserialize(text, openmm.System, "system.xml").getNumParticles()
    0
    >>> deserialize(text.replace("<Forces/>", '<Forces><Force type="PythonForce"/></Forces>'), openmm.System, "a.xml")
    Traceback (most recent call last):
        ...
    latf_sampling.errors.DataError: a.xml: line 10 holds a PythonForce, which is Python code that runs when the \
file is read; write the file without it.
    """
    _Check(text, kind, source)
    try:
        content = openmm.XmlSerializer.deserialize(text)
    except Exception as error:  # of several types, for missing properties, versions and numbers that are none
        raise DataError(f"{source} cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(content, kind):
        raise DataError(f"{source}: holds {type(content).__name__}, not a {kind.__name__}.")
    return content


class _Check:
    """Reads a text element by element, and refuses what is not plain data of OpenMM.

    OpenMM's own parser ends comments and processing instructions elsewhere than XML does, so that one could hide a
    force from this check; OpenMM writes none, and none is accepted.
    """

    def __init__(self, text: str, kind: type, source: str) -> None:
        self.kind, self.source, self.depth = kind, source, 0
        self.parser = parser = expat.ParserCreate("utf-8")  # whatever encoding the text declares
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = lambda *_: self._refuse("a document type declaration")
        parser.CommentHandler = lambda *_: self._refuse("a comment")
        parser.ProcessingInstructionHandler = lambda *_: self._refuse("a processing instruction")
        parser.StartCdataSectionHandler = lambda *_: self._refuse("a CDATA section")
        try:
            parser.Parse(text.encode("utf-8"), True)
        except (expat.ExpatError, UnicodeEncodeError) as error:
            raise DataError(f"{source} cannot be read ({error}; it is damaged, or no XML file).") from error

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        name = attributes.get("type")
        if self.depth == 1:
            self._check_root(element, name)
        elif self.depth > _DEEPEST:
            raise DataError(f"{self.source}: line {self._line} nests more than {_DEEPEST} elements.")
        if name is not None and name not in _DATA and not name.isdecimal():  # numbers: steps of a CustomIntegrator
            self._refuse_object(name)
        numbers = element in _NUMBERS
        for key, value in attributes.items():
            if key == "name" or (not numbers and not _NO_NUMBER.fullmatch(value)):
                continue
            if not _is_finite(value):
                where = f"{self.source}: line {self._line}"
                raise DataError(f"{where}: {key} of {element} is {value!r}, not a finite number.")

    def _end(self, element: str) -> None:
        self.depth -= 1

    def _check_root(self, element: str, name: str | None) -> None:
        kinds = INTEGRATORS if self.kind is openmm.Integrator else {self.kind.__name__}
        if name is None:
            raise DataError(f"{self.source} cannot be read (it begins with <{element}>, and is no object of OpenMM).")
        if name in _DATA and name not in kinds:
            raise DataError(f"{self.source}: holds {name}, not a {self.kind.__name__}.")

    def _refuse_object(self, name: str) -> NoReturn:
        what = {
            "PythonForce": "is Python code that runs when the file is read",
            "TorchForce": "is a program that runs with every step",
        }.get(name, "is none of OpenMM's own classes and may be a program")
        raise DataError(f"{self.source}: line {self._line} holds a {name}, which {what}; write the file without it.")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self.source}: line {self._line} holds {what}, which OpenMM does not write; remove it.")

    @property
    def _line(self) -> int:
        return self.parser.CurrentLineNumber


def _is_finite(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False
