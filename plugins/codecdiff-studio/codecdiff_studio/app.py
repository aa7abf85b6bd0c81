"""The page of the studio, and its server.

The page may load nothing from elsewhere: a Content-Security-Policy tells the browser so, whatever a model card holds.
"""

from __future__ import annotations

import gc
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.themes import Default
from starlette.datastructures import MutableHeaders

from codecdiff_studio.compare_tab import compare_tab
from codecdiff_studio.edit_tab import EditTab
from codecdiff_studio.generate_tab import generate_tab
from codecdiff_studio.model_tab import model_tab
from codecdiff_studio.studio import KEEP_S, Studio

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
CODE_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
MAX_UPLOAD = "100mb"
MAX_SESSIONS = 256  # that are kept, also those of clients that never say that they have closed
OWN = "'self' data: blob:"
POLICY = (  # Gradio compiles its templates in the page
    f"default-src {OWN}; script-src {OWN} 'unsafe-inline' 'unsafe-eval'; style-src {OWN} 'unsafe-inline'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
)


class SecurityHeaders:
    """Adds the policy to every response, as middleware of ASGI."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def new_app(studio: Studio) -> gr.Blocks:
    """Return the page: a tab for each task."""
    with gr.Blocks(title="codecdiff studio", analytics_enabled=False, delete_cache=(600, int(KEEP_S))) as app:
        gr.Markdown("# codecdiff studio")
        with gr.Tab("Generate"):
            generate_tab(studio)
        with gr.Tab("Edit"):
            EditTab(studio)
        with gr.Tab("Compare"):
            compare_tab(studio)
        with gr.Tab("Model"):
            model_tab(studio)

        def close(request: gr.Request) -> None:
            studio.close(request)
            app.state_holder.session_data.pop(str(request.session_hash), None)  # Gradio would keep about a megabyte
            gc.collect()

        app.unload(close)
    return app.queue(max_size=studio.limits.queue, default_concurrency_limit=1, api_open=False)


def launch(app: gr.Blocks, host: str, port: int | None, login: tuple[str, str] | None) -> str:
    """Start the server in the background, and return the address of the page."""
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        auth=login,
        share=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        footer_links=["api"],
        theme=Default(primary_hue="purple", font=FONTS, font_mono=CODE_FONTS),
        css=(files("codecdiff_studio") / "static" / "studio.css").read_text(encoding="utf-8"),
        app_kwargs={"middleware": [(SecurityHeaders, (), {})]},
    )
    gc.freeze()  # what stays until the end need not be searched when a tab is closed
    return url
