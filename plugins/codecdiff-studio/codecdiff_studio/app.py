"""The page of the studio, and its server.

The page may load nothing from elsewhere: a Content-Security-Policy tells the browser so, whatever a model card holds.
"""

from __future__ import annotations

import gc
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import safehttpx
from gradio.themes import Default
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException

from codecdiff.errors import InvalidValue
from codecdiff_studio.compare_tab import compare_tab
from codecdiff_studio.edit_tab import EditTab
from codecdiff_studio.generate_tab import generate_tab
from codecdiff_studio.model_tab import model_tab
from codecdiff_studio.studio import KEEP_S, Studio, Waveform

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


class EndedSessions:
    """Ends the stream of a session that has been closed, as middleware of ASGI.

    Gradio tells its page so and raises an error, which the server would log although nothing is wrong.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:  # by Starlette, as the response has begun
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body"})


def new_app(studio: Studio) -> gr.Blocks:
    """Return the page: a tab for each task."""
    with gr.Blocks(title="codecdiff studio", analytics_enabled=False, delete_cache=(600, int(KEEP_S))) as app:
        gr.Markdown("# codecdiff studio")
        with gr.Tabs() as tabs:
            with gr.Tab("Generate"):
                generate_tab(studio, lambda waveform: edit_button(waveform))
            with gr.Tab("Edit", id="edit"):
                edit_tab = EditTab(studio)
            with gr.Tab("Compare"):
                compare_tab(studio)
            with gr.Tab("Model"):
                model_tab(studio)

        def edit_button(waveform: Waveform) -> None:
            """Show a button that opens a waveform, with its prompt, in the tab Edit."""
            gr.Button("Edit", size="sm").click(
                lambda: [str(waveform.file), gr.Tabs(selected="edit"), *edit_tab.prompt.filled(waveform.prompt)],
                outputs=[edit_tab.source, tabs, edit_tab.prompt.text, *edit_tab.prompt.others.values()],
                queue=False,
                api_visibility="private",
            )

        def close(request: gr.Request) -> None:
            studio.close(request)
            app.state_holder.session_data.pop(str(request.session_hash), None)  # Gradio would keep about a megabyte
            gc.collect()

        app.unload(close)
    return app.queue(max_size=studio.limits.queue, default_concurrency_limit=1, api_open=False)


def stay_offline() -> None:
    """Let Gradio refuse files that requests name by URL, which it would ask other machines for."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise InvalidValue("The studio fetches nothing from other machines.")

    safehttpx.get = safehttpx.async_validate_url = refuse


def launch(app: gr.Blocks, host: str, port: int | None, login: tuple[str, str] | None, folder: Path) -> str:
    """Start the server in the background, and return the address of the page, which plays files of `folder`."""
    stay_offline()
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        auth=login,
        share=False,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[str(folder / "sessions")],
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        footer_links=["api"],
        theme=Default(primary_hue="purple", font=FONTS, font_mono=CODE_FONTS).set(
            # Colors with a contrast of at least 4.5
            body_text_color_subdued="*neutral_500",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
            color_accent="*primary_600",
            input_placeholder_color="*neutral_500",
            input_placeholder_color_dark="*neutral_400",
        ),
        css=(files("codecdiff_studio") / "static" / "studio.css").read_text(encoding="utf-8"),
        app_kwargs={"middleware": [(SecurityHeaders, (), {}), (EndedSessions, (), {})]},
    )
    gc.freeze()  # what stays until the end need not be searched when a tab is closed
    return url
