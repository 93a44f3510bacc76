def text(found): 
    from bench.parts import PARTS
    return "\n\n".join(PARTS[n].render(p["figures"]) for n,p in found["parts"].items()) + str(found["left_out"])
def write(found): pass
