"""Take the picture of the sandbox's page: `make picture`, or give the file it should write."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT = 1280, 640
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PHONE = "+14155550123"
OPENED = {
    "phone": PHONE,
    "metadata": {"lifetime_value": 9120.0, "orders": [{"id": "A-1001", "total": 42.5}]},
}
UPDATE = "POST", "/api/v1/actions/update-contact"
CREATE = "POST", "/api/v1/actions/create-contact"
REQUESTS = [
    (*CREATE, {"phone": "+14155550199", "name": "Noor van Dijk", "tags": "lead"}),
    (*UPDATE, {"phone": "0612345678", "nmae": "Chloé"}),
    ("PUT", "/sandbox/faults", {"status": 429, "times": 2}),
    (*UPDATE, OPENED),
    (*UPDATE, OPENED),
    (*UPDATE, OPENED),
    ("POST", "/api/v1/actions/add-tag", {"phone": "+442079460958", "tag": "customer"}),
    ("GET", "/api/v1/me", None),
    ("POST", "/api/v1/actions/get-contact", {"phone": "+12025550100"}),
]


def main(file: str):
    """Start a sandbox, send it a few requests, and write what its page then looks like."""
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "serve", "--sandbox", "--port", "0", "--temporary"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("CONTACTS_", "QYVO_"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as sandbox:
        try:
            url = sandbox.stdout.readline().split()[-1]
            for request in REQUESTS:
                send(url, *request)
            photograph(f"{url}/?request={entry_to_open(url)}", file)
        finally:
            sandbox.terminate()


def send(url: str, method: str, path: str, body: dict | None = None) -> bytes:
    """Send one request, and return the response's body, whatever its status."""
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer sandbox", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        return error.read()


def entry_to_open(url: str) -> int:
    """Return the journal's id of the update that succeeded."""
    journal = send(url, "GET", "/sandbox/requests?path=/actions/update-contact&status=200")
    return json.loads(journal)[0]["id"]


def photograph(page_url: str, file: str):
    """Write the page to a PNG file, in light colours."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        raise SystemExit("Chromium is needed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", timezone_id="UTC"
        )
        page.goto(page_url)
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:] or [str(ROOT / "docs" / "inspector.png")])
