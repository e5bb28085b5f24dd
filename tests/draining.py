"""What tests of several rooms do with an iterator."""


def drained(iterator):
    """Everything that comes, and the errors on the way."""
    found, errors = [], []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found, errors
        except Exception as error:  # noqa: BLE001
            errors.append(error)
