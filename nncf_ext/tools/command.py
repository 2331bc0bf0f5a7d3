"""Where the program `nncf-ext` begins."""


def main() -> int:
    """As `nncf_ext.tools.cli.main`, where an interrupt while modules are loaded ends quietly too."""
    try:
        from nncf_ext.tools.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130
