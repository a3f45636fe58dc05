"""Implicit solvent by OpenMM's own force where it has one, which is several times faster than the general one.

`implicit/obc2.xml`, and the readers of Amber's and CHARMM's files with salt, write the OBC2 model (Onufriev, Bashford
and Case, doi:10.1002/prot.20033) as a `CustomGBForce`. Without salt it is the `GBSAOBCForce`, up to the last digits of
the constant of Coulomb's law. Models with other terms, such as GBn2, stay as they are.
"""

from __future__ import annotations

import re

import openmm

OFFSET = 0.009
"""nm, by which the OBC models make radii smaller."""
SURFACE_TERM = "28.3919551*(radius+0.14)^2*(radius/B)^6"
"""Energy of the surface that both forces have (ACE), kJ/mol."""
SURFACE_ENERGY = 28.3919551 / (4 * 3.14159265358979)
"""kJ/mol/nm^2, as `GBSAOBCForce` counts it."""
_INTEGRAL = (
    "select(step(r+sr2-or1),0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r),0);U=r+sr2;L=max(or1,D);"
    "D=abs(r-sr2)"
)
_RADIUS = "1/(1/or-tanh(psi-0.8*psi^2+4.85*psi^3)/radius);psi=I*or;radius=or+offset;offset=0.009"
_OWN = "-0.5*138.935485*(1/soluteDielectric-1/solventDielectric)*charge^2/B"
_PAIR = "-138.935485*(1/soluteDielectric-1/solventDielectric)*charge1*charge2/f;f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))"
_DIELECTRIC = re.compile(r"(solvent|solute)Dielectric=([0-9.eE+-]+)")


def use_native_obc2(system: openmm.System) -> None:
    """Replace a `CustomGBForce` that is OBC2 without salt and without a cutoff by a `GBSAOBCForce`.

    Examples
    --------
    >>> from openmm import app
    >>> from latf_sampling.systems.named import named_structure
    >>> structure = named_structure("alanine-dipeptide", None, 0)
    >>> field = app.ForceField("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
    >>> system = field.createSystem(structure.topology)
    >>> use_native_obc2(system)
    >>> [force.getName() for force in system.getForces() if "GB" in force.getName()]
    ['GBSAOBCForce']
    """
    for index, force in enumerate(system.getForces()):
        native = _native(force) if isinstance(force, openmm.CustomGBForce) else None
        if native is not None:
            native.setForceGroup(force.getForceGroup())
            system.removeForce(index)
            system.addForce(native)
            return


def _native(force: openmm.CustomGBForce) -> openmm.GBSAOBCForce | None:
    """The same as a `GBSAOBCForce`, or None where it is anything else."""
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    others = force.getNumGlobalParameters(), force.getNumTabulatedFunctions(), force.getNumExclusions()
    if (
        names != ["charge", "or", "sr"]
        or any(others)
        or force.getNonbondedMethod() != openmm.CustomGBForce.NoCutoff
        or [_plain(force.getComputedValueParameters(k)[1]) for k in range(force.getNumComputedValues())]
        != [_INTEGRAL, _RADIUS]
    ):
        return None
    terms = [_plain(force.getEnergyTermParameters(k)[0]) for k in range(force.getNumEnergyTerms())]
    formulas = {_formula(term) for term in terms}
    if len(terms) != len(formulas) or formulas - {SURFACE_TERM} != {_OWN, _PAIR}:
        return None
    dielectrics = {name: {float(value) for key, value in _DIELECTRIC.findall(";".join(terms)) if key == name}
                   for name in ("solvent", "solute")}  # fmt: skip
    if any(len(values) != 1 for values in dielectrics.values()):
        return None
    native = openmm.GBSAOBCForce()
    native.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
    native.setSolventDielectric(dielectrics["solvent"].pop())
    native.setSoluteDielectric(dielectrics["solute"].pop())
    native.setSurfaceAreaEnergy(SURFACE_ENERGY if SURFACE_TERM in formulas else 0.0)
    for particle in range(force.getNumParticles()):
        charge, reduced, scaled = force.getParticleParameters(particle)
        native.addParticle(charge, reduced + OFFSET, scaled / reduced)
    return native


def _plain(expression: str) -> str:
    return expression.replace(" ", "")


def _formula(term: str) -> str:
    """An energy term without the definitions of its constants, which are those of OBC2 without salt."""
    parts = [part for part in term.split(";") if part]
    kept = [part for part in parts if not _DIELECTRIC.fullmatch(part) and part not in ("kappa=0", "kappa=0.0")]
    kept = [part for part in kept if not part.startswith("offset=") and part != "radius=or+offset"]
    return ";".join(kept)
