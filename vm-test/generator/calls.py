"""The calls of a run, as the relays know them: placed, put on hold and resumed, ended."""

import ipaddress
import secrets
from dataclasses import dataclass

from generator.control import Clients, NoAnswerError
from generator.settings import Settings, SettingsError, SideSettings
from generator.signalling import Dialog, Place, RefusedError, family_modifiers, read_port_line


@dataclass(frozen=True)
class Call:
    """A call: where its phones are, and where each of them sends to."""

    number: int
    dialog: Dialog
    caller: Place
    callee: Place
    to_caller_side: Place
    """The relay's place that the caller sends to."""
    to_callee_side: Place

    def relay_beside(self, side: str) -> Place:
        """The relay's place that the phones of a side send to, and get packets from."""
        return self.to_caller_side if side == "caller" else self.to_callee_side


class Calls:
    """Sends the commands of all calls, each to the relay whose turn it is, and remembers what must be ended."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients
        self._started: list[tuple[int, Dialog]] = []
        self._names = secrets.token_hex(4)
        self.placed: list[Call] = []
        self.faults: list[str] = []

    def place(self) -> None:
        """Place all calls. Raises NoAnswerError, RefusedError and SettingsError."""
        for number in range(self._settings.calls):
            dialog = Dialog(f"traffic-{self._names}-{number}", f"f{number}", f"t{number}")
            self._started.append((number, dialog))
            caller, callee = self._settings.caller.place(number), self._settings.callee.place(number)
            to_callee_side = self._offer(number, dialog, self._signalled(caller, number, 1))
            to_caller_side = self._answer(number, dialog, self._signalled(callee, number, 2))
            self.placed.append(
                Call(
                    number,
                    dialog,
                    caller,
                    callee,
                    self._seen_by(self._settings.caller, number, to_caller_side),
                    self._seen_by(self._settings.callee, number, to_callee_side),
                )
            )

    def hold(self) -> None:
        """Send the commands of a re-INVITE by which the caller puts the call on hold: a null address."""
        self._reinvite(is_hold=True)

    def resume(self) -> None:
        """Send the commands of a re-INVITE that ends it."""
        self._reinvite(is_hold=False)

    def end(self) -> None:
        """End all calls that were started; answers other than 0 are faults. A relay that is silent is asked once."""
        placed = {call.number for call in self.placed}
        silent: set[int] = set()
        for number, dialog in self._started:
            relay = number % len(self._clients)
            if relay in silent:
                continue
            try:
                reply = self._clients.of_call(number).ask(dialog.end())
            except NoAnswerError as error:
                silent.add(relay)
                self.faults.append(f"the calls were not all ended: {error}")
                continue
            if reply != "0" and number in placed:
                self.faults.append(f"{dialog.end()!r} was answered {reply!r} and not 0")
        self._started.clear()

    def _reinvite(self, *, is_hold: bool) -> None:
        for call in self.placed:
            caller = self._signalled(call.caller, call.number, 1)
            if is_hold:
                caller = Place("::" if caller.is_ipv6 else "0.0.0.0", caller.port)
            callee = self._signalled(call.callee, call.number, 2)
            offered = self._offer(call.number, call.dialog, caller, is_again=True)
            answered = self._answer(call.number, call.dialog, callee)
            before = call.to_callee_side.port, call.to_caller_side.port
            if (offered.port, answered.port) != before:
                raise RefusedError(f"{call.dialog.call_id}: after a re-INVITE the ports are others than {before}")

    def _offer(self, number: int, dialog: Dialog, caller: Place, *, is_again: bool = False) -> Place:
        callee = self._settings.callee.place(number)
        modifiers = family_modifiers(caller, callee, self._settings.offer_modifiers)
        command = dialog.offer(caller, modifiers, is_again=is_again)
        return read_port_line(command, self._clients.of_call(number).ask(command))

    def _answer(self, number: int, dialog: Dialog, callee: Place) -> Place:
        caller = self._settings.caller.place(number)
        modifiers = family_modifiers(callee, caller, self._settings.answer_modifiers)
        command = dialog.answer(callee, modifiers)
        return read_port_line(command, self._clients.of_call(number).ask(command))

    def _signalled(self, place: Place, number: int, network: int) -> Place:
        """What the SDP of a phone says: where it is or, behind NAT, a private address."""
        if not self._settings.is_nat:
            return place
        if place.is_ipv6:
            return Place(f"fd00:{network}::{number + 1:x}", place.port)
        return Place(f"172.{15 + network}.{number >> 8 & 0xFF}.{number & 0xFF}", place.port)

    def _seen_by(self, side: SideSettings, number: int, place: Place) -> Place:
        """The relay's place that a phone sends to: as the options say, else as the reply, else where commands go to."""
        address = side.relays[number % len(side.relays)] if side.relays else place.address
        control = self._clients.addresses[number % len(self._clients)]
        if not address and control.kind != "unix":
            address = control.host
        if not address:
            raise SettingsError(
                f"the relay's replies name no address: give --{side.name}-relay, where the {side.name}'s phones send to"
            )
        try:
            return Place(str(ipaddress.ip_address(address)), place.port)
        except ValueError as error:
            raise SettingsError(
                f"{address!r} is the relay's name, not its address: give --{side.name}-relay"
            ) from error
