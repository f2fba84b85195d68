"""What `shiftadd serve` says of the server that it has started."""
import re


def http_address(said):
    """HOST:PORT of its OpenAI API."""
    found = re.search(r" at https?://(\S+) \(OpenAI API\)", said)
    assert found, f"no address in: {said}"
    return found.group(1)
