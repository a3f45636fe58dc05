def write_report(c):
    pass
