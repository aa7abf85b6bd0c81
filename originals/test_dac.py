"""The two backends of DAC."""


def test_the_original_package_can_be_imported() -> None:
    import dac

    assert dac.DAC
