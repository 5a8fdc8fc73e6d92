"""Build the project's W&B workspace: python src/dashboard.py [key=VALUE ...]; --help lists them."""

from flowers.commands import dashboard

if __name__ == "__main__":
    dashboard()
