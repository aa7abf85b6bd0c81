"""A trained model: from prompts to audio."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from codecdiff import __version__
from codecdiff.arguments import require_type
from codecdiff.errors import InvalidValue
from codecdiff.files import sha256
from codecdiff.interfaces import Prompt, prompt_fields
from codecdiff.pipeline.cascade import CascadePipeline, StepCallback
from codecdiff.pipeline.conditions import check_fields, require_unicode
from codecdiff.pipeline.generation import (
    GenerationConfig,
    GenerationOptions,
    prompt_list,
    unused_note,
    with_progress_bar,
)

if TYPE_CHECKING:
    from codecdiff.pipeline.editing import AnyEdit, Edit
    from codecdiff.pipeline.output import PipelineOutput
    from codecdiff.pipeline.provenance import GenerationRequest


class Pipeline(CascadePipeline):
    """A trained model, in the style of diffusers.

    codec, splitter, conditioner: parts; stages: one denoiser each, coarse first, with its schedulers.
    target: what is diffused: codebook vectors, or the continuous latents before quantization.
    snap_context: a stage sees the codebook vectors of the stages before it, else their latents as sampled.
    data: facts about the training data.
    generation_config: options of a call that does not say otherwise.

    Example:
        >>> from codecdiff import Pipeline
        >>> pipe = Pipeline.from_pretrained("starter")
        >>> out = pipe("a slow waltz on piano", audio_length_in_s=2, num_inference_steps=4, seed=0)
        >>> out.audios.shape, out.sampling_rate
        (torch.Size([1, 1, 88200]), 44100)
        >>> files = out.save("waltz.wav")

    """

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] = "",
        generation_config: GenerationConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
        partial: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> PipelineOutput:
        """Generate audio from prompts.

        Args:
            prompt: A text, a mapping of fields such as `{"text": "a waltz", "tempo": 90}`, or a list of these. Empty:
                unconditional.
            generation_config: Options in place of the model's own, which `options` override.
            generator: Draws the seed, in place of `seed`.
            callback_on_step_end: Called as `callback(pipe, step, timestep, {"latents": ..., "stage": ...})` after every
                step. `step` counts over all stages and batches, to `pipe.num_timesteps`. What it returns as "latents"
                replaces them. `pipe.interrupt()` in it stops the run.
            partial: Leave stages that are not trained yet at the mean of their latents, which is an error otherwise.
            **options: `audio_length_in_s`, `num_inference_steps`, `guidance_scale`, `negative_prompt`,
                `num_waveforms_per_prompt`, `seed` and the other fields of `GenerationConfig`. None: as configured.

        Raises:
            UserError: The options or prompts cannot be used with this model.
            GenerationInterrupted: The run was stopped.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> prompts = ["strings, loud", {"text": "a flute"}]
            >>> out = pipe(prompts, audio_length_in_s=1, num_inference_steps=2, guidance_scale=3.0, seed=1)
            >>> out
            PipelineOutput(audios=(2, 1, 44100), codes=(2, 9, 87), sampling_rate=44100)

        """
        settings = self._options(generation_config, generator, options)
        prompts, seconds = prompt_list(prompt), settings.audio_length_in_s
        check_fields([*prompts, settings.negative_prompt], self.conditioner)
        frames, samples = self.frames(seconds), round(seconds * self.sample_rate)
        codes = self.generate_codes(
            prompts, frames, settings, partial=partial, callback_on_step_end=self._on_step_end(callback_on_step_end)
        )
        return self._output(prompts, codes, samples, settings)

    def edit(
        self,
        audio: Tensor | Path | str,
        edit: Edit,
        prompt: Prompt = "",
        generation_config: GenerationConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> PipelineOutput:
        """Generate a part of existing audio again: a file, or (ch, t) at the model's sample rate.

        `edit` says which part: `Refine`, `Inpaint`, `Extend`, `Vary` or `Restore`. The codes it keeps stay as they are.
        The other arguments are those of a call.

        Example:
            >>> import codecdiff
            >>> pipe = codecdiff.load("starter")
            >>> song = pipe("a slow waltz", audio_length_in_s=1, num_inference_steps=2)
            >>> pipe.edit(song.audios[0], codecdiff.Inpaint(regions=[(0.5, 0.8)]), "a flute", num_inference_steps=2)
            PipelineOutput(audios=(1, 1, 44100), codes=(1, 9, 87), sampling_rate=44100)

        """
        from codecdiff.pipeline.editing import Edit

        require_type(edit, Edit, "an edit such as codecdiff.Vary(strength=0.4)")
        if options.get("loop"):
            raise InvalidValue("An edit keeps the ends of its source, so it makes no loop: leave out loop.")
        settings = self._options(generation_config, generator, options).merge(loop=False)
        check_fields([prompt, settings.negative_prompt], self.conditioner)
        with self._on_device(self.codec):
            mask, samples = edit.apply_to_audio(audio, self.codec, self.target)
        mask = mask.repeat(settings.num_waveforms_per_prompt)
        codes = self.generate_codes(
            [prompt], mask.frames, settings, edit=mask, callback_on_step_end=self._on_step_end(callback_on_step_end)
        )
        file = {} if isinstance(audio, Tensor) else {"source": sha256(audio), "source_name": Path(audio).name}
        is_new = mask.is_new(self.codec.hop_length, samples)
        return self._output([prompt], codes, samples, settings, is_new, edit=edit, **file)

    def request(
        self,
        prompt: Prompt,
        generation: GenerationConfig,
        *,
        edit: AnyEdit | None = None,
        source: str | None = None,
        source_name: str | None = None,
    ) -> GenerationRequest:
        """Return everything that the waveforms of a prompt follow from, as their files record it.

        Of an edited file, `source` is its SHA-256, and `source_name` its name.
        """
        from codecdiff.pipeline.provenance import GenerationRequest, StageSampling

        require_unicode(prompt)
        is_folder = bool(self.name) and Path(self.name).exists()
        return GenerationRequest(
            codecdiff=__version__,
            model=self.fingerprint or "",
            model_name="/".join(Path(self.name).resolve().parts[-2:]) if is_folder else self.name,
            adapters=[adapter.record for adapter in self.adapters] or None,
            stages={stage.name: StageSampling.of(stage.sampling) for stage in self.sampled_stages(generation)},
            prompt=dict(prompt_fields(prompt)),
            generation=generation,
            edit=edit,
            source=source,
            source_name=source_name,
        )

    def generate_request(
        self,
        request: GenerationRequest,
        source: Path | None = None,
        *,
        callback_on_step_end: StepCallback | None = None,
    ) -> Iterator[Tensor]:
        """Yield the audio (ch, t) in [-1, 1] of every waveform of a request, as the one that a file records.

        `source` is the file of an edit. The waveforms that one was computed with are computed again, so that its last
        bits are the same. Raises InvalidValue for an edit without a source.
        """
        own, options = request.generation, request.generation
        if request.batch is not None:
            first, count = request.batch
            options = own.merge(first_sample_index=first, num_waveforms_per_prompt=count, batch_size=count)
        wanted = range(own.first_sample_index, own.first_sample_index + own.num_waveforms_per_prompt)
        if request.edit is None:
            seconds = options.audio_length_in_s
            mask, is_new, frames, samples = None, None, self.frames(seconds), round(seconds * self.sample_rate)
        else:
            if source is None:
                raise InvalidValue("An edit needs a source: an audio file.")
            mask, samples = request.edit.apply_to_audio(source, self.codec, self.target)
            is_new, frames = mask.is_new(self.codec.hop_length, samples), mask.frames
            mask = mask.repeat(options.num_waveforms_per_prompt)
        callback = callback_on_step_end
        every = self.generate_codes([request.prompt], frames, options, edit=mask, callback_on_step_end=callback)
        for index, codes in enumerate(every, options.first_sample_index):
            if index in wanted:
                audio = self.decode([codes], samples, loop=options.loop)[0]
                yield request.playable(audio, self.sample_rate, is_new)

    def set_progress_bar_config(self, **options: Any) -> None:
        """Show a progress bar in calls and edits, with these options of tqdm; `disable=True` hides it again."""
        self._progress_bar = {"disable": False, **options}

    def _on_step_end(self, callback: StepCallback | None) -> StepCallback | None:
        return with_progress_bar(callback, self._progress_bar) if self._progress_bar else callback

    def _options(
        self, generation_config: GenerationConfig | None, generator: torch.Generator | None, options: GenerationOptions
    ) -> GenerationConfig:
        if generation_config is not None:
            require_type(generation_config, GenerationConfig, "options by their names, as in negative_prompt='drums'")
        merged = (generation_config or self.generation_config).merge(**options)
        if generator is None:
            return merged
        if not isinstance(generator, torch.Generator):
            raise InvalidValue(
                f"Invalid generator of type {type(generator).__name__}: expected one torch.Generator, as in "
                "torch.Generator().manual_seed(0). It draws one seed, and every waveform of a call has its own noise."
            )
        if options.get("seed") is not None:
            raise InvalidValue("Both seed and generator say what to draw: leave one out.")
        return merged.merge(seed=int(torch.randint(2**62, (), generator=generator, device=generator.device)))

    def _output(
        self,
        prompts: Sequence[Prompt],
        codes: Iterator[Tensor],
        samples: int,
        settings: GenerationConfig,
        is_new: Tensor | None = None,
        **edited: Any,
    ) -> PipelineOutput:
        """Decode codes (1, k, l), generated one after another, to `samples` each.

        Of an edit, `is_new` is that of its mask, and `edited` as in `request`.

        Warns of words that the model was not trained on, and of a negative prompt without effect.
        """
        from codecdiff.pipeline.output import PipelineOutput
        from codecdiff.pipeline.vocabulary import vocabulary_note

        negative = settings.negative_prompt
        scales = [stage.sampling.guidance_scale for stage in self.sampled_stages(settings)]
        words = vocabulary_note(self.conditioner, self.data, [*prompts, negative], self.name)
        for note in filter(None, (words, unused_note(negative, scales))):
            warnings.warn(note, stacklevel=3)
        count = settings.num_waveforms_per_prompt
        request = self.request("", settings, **edited)
        batch = {} if len(prompts) == 1 else {"batch": None}  # it has samples of other prompts
        repeated = [prompt for prompt in prompts for _ in range(count)]
        requests = [
            request.waveform(i).model_copy(update={"prompt": prompt_fields(prompt), **batch})
            for i, prompt in enumerate(repeated)
        ]
        together = torch.cat(list(codes))
        decoded = self.decode(together.split(1), samples, loop=settings.loop)
        audios = [each.playable(audio, self.sample_rate, is_new) for each, audio in zip(requests, decoded, strict=True)]
        return PipelineOutput(torch.stack(audios), together.cpu(), self.sample_rate, repeated, settings, requests)


load = Pipeline.from_pretrained
