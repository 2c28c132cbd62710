"""What the reader does for files that are mounted: it answers questions for as long as somebody asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from holdfast_agent.errors import HoldfastError, NotFound
from holdfast_agent.wire.files import FileKind

from .frames import Data, Ended, Found, Frame, Inlet, Question, ShowAttributes, ShowDoubts, ShowFolder, complaint
from .tree import Place, Tree
from .walk import attributes_of, entry_of, tell_doubts

_MOST_PLACES = 20_000


class Shown:
    """In the confined process."""

    def __init__(self, tree: Tree, questions: Inlet, send: Callable[[Frame], None]) -> None:
        self._tree = tree
        self._questions = questions
        self._send = send
        self._places: OrderedDict[bytes, Place] = OrderedDict()

    def answer(self) -> None:
        """Until nobody asks any more. Raises errors of the disks."""
        while (question := self._questions.question()) is not None:
            try:
                self._answer(question)
            except NotFound as error:
                self._send(complaint(question.path, error.text))
            except (HoldfastError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - a library met something that it does not understand
                self._send(complaint(question.path, error))
            self._send(Ended())

    def _answer(self, question: Question) -> None:
        place = self._place(question.path)
        if isinstance(question, ShowFolder):
            if not place.names:
                self._tell(place, b".")  # nobody else tells of the root itself
            for child in self._tree.children(place):
                self._keep(child)
                self._tell(child, child.names[-1])
            return
        if isinstance(question, ShowDoubts):
            tell_doubts(self._tree, place, self._send, below=True)
            return
        if isinstance(question, ShowAttributes):
            self._send(Found(entry_of(place, b".", place.node.facts(), attributes_of(place, self._send))))
            return
        if place.node.facts().kind is not FileKind.FILE:
            return
        end = question.offset + question.length
        for offset, data in place.node.data(question.offset):
            if offset >= end:
                break
            self._send(Data(offset, data[: end - offset]))

    def _tell(self, place: Place, name: bytes) -> None:
        try:
            entry = entry_of(place, name, place.node.facts())
        except HoldfastError:
            raise
        except Exception:  # noqa: BLE001 - a library met something that it does not understand
            return  # what cannot be looked at is not there
        self._send(Found(entry))

    def _place(self, path: bytes) -> Place:
        place = self._places.get(path)
        if place is None:
            place = self._tree.at(path)
            self._keep(place)
        return place

    def _keep(self, place: Place) -> None:
        self._places[place.path] = place
        self._places.move_to_end(place.path)
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
