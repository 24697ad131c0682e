"""What a host can do to ciphertexts of scheme `bfv` without any key, where it does not keep to the protocol.

A ciphertext may be multiplied by a power of X and by small integers, ciphertexts may be added, any plaintext may be
added to the first polynomial, and anybody can encrypt zero under the public key. Whoever adds a plaintext to the
*second* polynomial has the key holder decrypt that plaintext times the secret key. The key holder's noise check sees
none of this: such replies are no noisier than honest ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rhe_parties.he import sealio
from rhe_parties.he.bfv import BfvEncryptor, head_residues
from rhe_parties.he.masking import fresh_masks
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.reply import pack_reply, reply_positions
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial
from rhe_parties.types import IntArray

__all__ = ["Forge", "Residues"]

#: Residues uint64 [2, N] of a ciphertext.
Residues = npt.NDArray[np.uint64]


class Forge:
    """Replies of the host's own making, for one key.

    Raises:
        SchemeError: damaged public key.
    """

    def __init__(self, public: PublicMaterial) -> None:
        self.plan: HeadPlan = public.plan
        self._public = public
        #: An encryption of zero; one serves for everything.
        self.zero: Residues = BfvEncryptor(public).zero()

    def head(self, head: HeadCiphertexts) -> npt.NDArray[np.uint64]:
        """Residues [class tiles, feature tiles, 2, N] of an encrypted head."""
        return head_residues(self._public, head)

    def lifted(self, value: int) -> int:
        """A plaintext integer as it is added to a ciphertext: round(q·m/t) modulo q."""
        q, t = self.plan.prime, self.plan.plain_modulus
        return (q * value + t // 2) // t % q

    def turned(self, cipher: Residues, power: int) -> Residues:
        """The ciphertext times X^power, for any whole power: X^N is -1."""
        degree, prime = self.plan.degree, np.uint64(self.plan.prime)
        power %= 2 * degree
        moved = np.roll(cipher, power % degree, axis=1)
        around = moved[:, : power % degree] if power < degree else moved[:, power % degree :]
        around[:] = (prime - around) % prime
        return moved

    def total(self, ciphers: Sequence[Residues]) -> Residues:
        """The sum of ciphertexts."""
        prime = np.uint64(self.plan.prime)
        result = np.zeros((2, self.plan.degree), dtype=np.uint64)
        for cipher in ciphers:
            result = (result + cipher) % prime
        return result

    def times(self, cipher: Residues, factor: int) -> Residues:
        """The ciphertext times a small integer, 0 to 512; times 0 it is an encryption of zero."""
        result: Residues = cipher * np.uint64(factor) % np.uint64(self.plan.prime) if factor else self.zero
        return result

    def with_secret(self, factor: int, power: int) -> Residues:
        """A ciphertext that decrypts to factor·X^power times the secret key."""
        result = self.zero.copy()
        power %= 2 * self.plan.degree
        value = self.lifted(factor if power < self.plan.degree else -factor)
        place = power % self.plan.degree
        result[1, place] = (int(result[1, place]) + value) % self.plan.prime
        return result

    def disturbed(self, amplitude: int, power: int) -> Residues:
        """An encryption of zero with amplitude·X^power, in units of q, added to its second polynomial: its noise holds
        amplitude times a coefficient of the secret key in every place."""
        result = self.zero.copy()
        power %= 2 * self.plan.degree
        place = power % self.plan.degree
        value = amplitude if power < self.plan.degree else -amplitude
        result[1, place] = (int(result[1, place]) + value) % self.plan.prime
        return result

    def reply(self, ciphers: Sequence[Residues], constants: IntArray) -> list[bytes]:
        """One request's reply, a ciphertext per class tile, with constants int64 [inputs, K] added to the logits."""
        lifted = np.array([self.lifted(int(value)) for value in constants.ravel()], dtype=np.int64)
        return self.shifted_reply(ciphers, lifted.reshape(constants.shape))

    def shifted_reply(self, ciphers: Sequence[Residues], offsets: IntArray) -> list[bytes]:
        """The same with offsets int64 [inputs, K] in units of q: they need not be multiples of a whole logit."""
        plan, inputs = self.plan, len(offsets)
        masks = fresh_masks(plan, inputs)[0]
        lifted = (offsets % plan.prime).astype(np.uint64)
        made = []
        for tile, cipher in enumerate(ciphers):
            positions, _ = reply_positions(plan, tile, inputs)
            first = tile * plan.tile_classes
            c0 = cipher[0].copy()
            added = c0[positions] + lifted[:, first : first + positions.shape[1]]
            c0[positions] = added % np.uint64(plan.prime)
            made.append(sealio.with_checksum(pack_reply(plan, c0, cipher[1], positions, masks[tile])))
        return made
